// From a picture to bytes: H.264 where the browser has an encoder for it, JPEG otherwise.

const CODECS = ["avc1.42e01f", "avc1.42001f"]; // baseline: pictures come in the order of decoding
const BITS_PER_PIXEL = 0.15;
const FPS = 15; // about what is sent; the encoder plans its bits with it
const IDR_EVERY = 150; // frames
const QUALITY = 0.85;
const LOST_AFTER = 2000; // ms without output: the encoder gave that frame up

/** JPEG by the canvas: bigger, every picture by itself. */
export class JpegEncoder {
  kind = "image";
  words = "JPEG, picture by picture";

  /** output({bytes, idr, picture, time}) is called for each picture. */
  constructor(output) {
    this.output = output;
    this.pending = 0;
  }

  async encode(picture, time) {
    this.pending += 1;
    const blob = await new Promise((done) => picture.toBlob(done, "image/jpeg", QUALITY));
    const bytes = await blob.arrayBuffer();
    this.pending -= 1;
    this.output({ bytes, idr: false, picture, time });
  }

  restart() {}

  close() {
    this.output = () => {};
  }
}

/** H.264 by WebCodecs: only what changed goes over the network. */
export class H264Encoder {
  kind = "h264";
  words = "H.264, encoded in this browser";

  constructor(output, failed) {
    this.output = output;
    this.failed = failed;
    this.waiting = new Map(); // time in µs -> picture
    this.size = "";
    this.count = 0;
    this.encoder = new VideoEncoder({
      output: (chunk) => this.take(chunk),
      error: (error) => this.failed(error),
    });
  }

  /** Whether this browser can, for pictures of that size. */
  static async isSupported(width, height) {
    if (!("VideoEncoder" in window)) return false;
    return (await find(width, height)) !== null;
  }

  get pending() {
    const now = 1000 * performance.now();
    for (const time of this.waiting.keys()) if (now - time > 1000 * LOST_AFTER) this.waiting.delete(time);
    return this.waiting.size;
  }

  async encode(picture, time) {
    const size = `${picture.width}x${picture.height}`;
    if (size !== this.size) {
      const config = await find(picture.width, picture.height);
      if (!config) return this.failed(new Error(`no H.264 of ${size}`));
      this.encoder.configure(config);
      this.size = size;
      this.count = 0;
    }
    if (this.encoder.state !== "configured") return undefined;
    const stamp = Math.round(1000 * time);
    this.waiting.set(stamp, { picture, time });
    const frame = new VideoFrame(picture, { timestamp: stamp });
    this.encoder.encode(frame, { keyFrame: this.count % IDR_EVERY === 0 });
    this.count += 1;
    frame.close();
    return undefined;
  }

  /** The next picture stands alone: the server's decoder begins with it. */
  restart() {
    this.count = 0;
    this.waiting.clear();
  }

  take(chunk) {
    const found = this.waiting.get(chunk.timestamp);
    if (!found) return this.restart(); // the server never sees it: what follows must not lean on it
    for (const time of this.waiting.keys()) if (time <= chunk.timestamp) this.waiting.delete(time);
    const bytes = new Uint8Array(chunk.byteLength);
    chunk.copyTo(bytes);
    this.output({ bytes, idr: chunk.type === "key", ...found });
    return undefined;
  }

  close() {
    this.output = () => {};
    if (this.encoder.state !== "closed") this.encoder.close();
  }
}

async function find(width, height) {
  for (const codec of CODECS) {
    const config = {
      codec,
      width,
      height,
      bitrate: Math.round(width * height * FPS * BITS_PER_PIXEL),
      framerate: FPS,
      latencyMode: "realtime",
      avc: { format: "annexb" },
    };
    try {
      if ((await VideoEncoder.isConfigSupported(config)).supported) return config;
    } catch {
      // not a size or codec that it knows
    }
  }
  return null;
}
