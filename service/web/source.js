// Where pictures come from: the webcam or a file, played by the page's video element.

import { cameraWords } from "/web/words.js";

const MAX_WIDTH = 640; // pixels sent; networks see less
const CAMERA = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "environment" };

export class SourceError extends Error {
  constructor(message, name) {
    super(message);
    this.name = name;
  }
}

/** A playing video; `next` waits for its next frame. */
export class Source {
  constructor(video, name, isFile) {
    this.video = video;
    this.name = name;
    this.isFile = isFile;
  }

  /** Ask for a camera; throws SourceError. */
  static async camera(video) {
    if (!navigator.mediaDevices) throw new SourceError(cameraWords({ name: "InsecureContext" }), "InsecureContext");
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: CAMERA });
      await video.play();
    } catch (error) {
      throw new SourceError(cameraWords(error), error.name);
    }
    return new Source(video, "Webcam", false);
  }

  /** Open a file at its first frame; throws SourceError. */
  static async file(video, file) {
    video.srcObject = null;
    video.src = URL.createObjectURL(file);
    try {
      await video.play();
      await new Promise((shown) => video.requestVideoFrameCallback(shown));
      video.pause();
      video.currentTime = 0;
      await new Promise((found) => video.addEventListener("seeked", found, { once: true }));
    } catch {
      throw new SourceError(`${file.name} does not play in this browser`, "BadFile");
    }
    return new Source(video, file.name, true);
  }

  play() {
    this.video.play().catch(() => {}); // a pause came first
  }

  pause() {
    this.video.pause();
  }

  /** The frame that is shown now, on a canvas of its own with even sides, as H.264 wants them. */
  grab() {
    const { videoWidth, videoHeight } = this.video;
    const factor = Math.min(1, MAX_WIDTH / videoWidth);
    const picture = document.createElement("canvas");
    picture.width = even(videoWidth * factor);
    picture.height = even(videoHeight * factor);
    picture.getContext("2d").drawImage(this.video, 0, 0, picture.width, picture.height);
    return picture;
  }

  /** Call `work` for every new frame until `close`; one at a time. */
  each(work) {
    const next = async () => {
      if (this.closed) return;
      await work();
      if (!this.closed) this.video.requestVideoFrameCallback(next);
    };
    this.video.requestVideoFrameCallback(next);
  }

  close() {
    this.closed = true;
    this.video.onended = null;
    this.video.pause();
    if (this.video.srcObject) this.video.srcObject.getTracks().forEach((track) => track.stop());
    if (this.isFile) URL.revokeObjectURL(this.video.src);
    this.video.srcObject = null;
    this.video.removeAttribute("src");
  }
}

const even = (length) => Math.max(2, 2 * Math.round(length / 2));
