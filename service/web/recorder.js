// Keeping what is seen: a picture, or a video of the canvas.

import { clock, download, put, stamped } from "/web/dom.js";

const TYPES = ["video/mp4;codecs=avc1.42E01E", "video/webm;codecs=vp9", "video/webm"];
const FPS = 25;
const LONGEST = 10 * 60_000; // ms: it is kept in memory

export function snapshot(canvas) {
  canvas.toBlob((blob) => download(blob, stamped("picture", "png")), "image/png");
}

/** Records a canvas while the button is on. */
export class Recorder {
  constructor(canvas, button) {
    this.canvas = canvas;
    this.button = button;
    this.media = null;
    button.addEventListener("click", () => (this.media ? this.stop() : this.start()));
  }

  start() {
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    const parts = [];
    this.media = new MediaRecorder(this.canvas.captureStream(FPS), { mimeType });
    this.media.ondataavailable = ({ data }) => parts.push(data);
    this.media.onstop = () => download(new Blob(parts, { type: mimeType }), stamped("video", mimeType.slice(6).split(";")[0]));
    this.media.start(1000);
    this.began = performance.now();
    this.ticking = setInterval(() => this.tick(), 500);
    this.button.setAttribute("aria-pressed", "true");
    this.tick();
  }

  tick() {
    const time = performance.now() - this.began;
    put(this.button.querySelector("span"), `Save ${clock(time / 1000)}`);
    if (time > LONGEST) this.stop();
  }

  /** Stop and save, if it records. */
  stop() {
    if (!this.media) return;
    clearInterval(this.ticking);
    this.media.stop();
    this.media = null;
    this.button.setAttribute("aria-pressed", "false");
    put(this.button.querySelector("span"), "Record");
  }
}
