/**
 * A client of the WebSocket protocol `resq.v1` for browsers: framing, credits, results, coming back
 * after a break. It imports nothing and knows no page. See docs/javascript.md.
 * @module resq
 */

/**
 * What a stream asks for; every field optional, see docs/protocol.md.
 * @typedef {object} StreamStart
 * @property {string} [id]
 * @property {string} [model]
 * @property {string} [precision]
 * @property {number} [period] T
 * @property {number} [threshold]
 * @property {"relative" | "paper"} [policy]
 * @property {"tracking" | "keyframe" | "previous"} [reference]
 * @property {"live" | "lossless"} [mode]
 * @property {number} [deadline_ms]
 * @property {number} [fps] a rate to keep room for
 * @property {"image" | "h264" | "vp8" | "rgb"} [input]
 * @property {{mask?: "zlib" | "png" | "rle" | "polygons" | "none", bit_map?: boolean, layers?: boolean}} [outputs]
 * @property {object} [pose]
 * @property {object} [vos]
 */

/** @typedef {{ids: Uint8Array, width: number, height: number}} IdMask class or object ids, row by row */
/** @typedef {{bits: Float32Array, width: number, height: number}} BitMap 0 to 8, a grid of 8x8 pixels of the network's input */
/** @typedef {{name: string, macs: number, bops: number, policy_bops: number, mean_bits: number, active_fraction: number}} Layer */

/**
 * One frame's result. `mask` is an `IdMask` for zlib, a Blob for png, the JSON of docs/protocol.md for
 * rle and polygons; what was not asked for is null.
 * @typedef {object} Result
 * @property {any} meta as the server sent it, see docs/protocol.md
 * @property {any} mask
 * @property {BitMap | null} bitMap
 * @property {Layer[] | null} layers
 */

/**
 * Called with what happens, in the order in which it happened.
 * @typedef {object} Handlers
 * @property {(started: any) => void} [started] options in force, class names, palette
 * @property {(result: Result) => void} [result]
 * @property {(drop: {seq: number, reason: string, message?: string}) => void} [drop] no result for this frame
 * @property {(stats: any) => void} [stats] totals, every now and then
 * @property {(reset: {reason: string, idr: boolean}) => void} [reset] the server lost the stream's state and goes on with an anchor; idr: encoded video had better begin anew
 * @property {(why: "broken" | "shutdown") => void} [waiting] the connection is gone; the client tries to come back
 * @property {(started: any) => void} [resumed] the same stream goes on
 * @property {(started: any) => void} [restarted] a new stream with the same options: the server lost the old one
 * @property {(problem: Problem) => void} [problem] the server's words; a fatal one is the last call
 * @property {(ended: any) => void} [ended] totals; the last call
 */

/** @typedef {{message: string, fatal: boolean, name: string | null, code: number | null}} Problem name: of the error, code: of the close */

const HEADER = 24;
const MAGIC = 0x51;
const VERSION = 1;
const KINDS = { image: 1, h264: 2, vp8: 3, rgb: 4 };
const FLAGS = { idr: 1, anchor: 2 };
const BROKEN = 1006;
const SHUTDOWN = 1012;
const FULL = 1013;
const FIRST_DELAY = 250; // ms between two tries to come back
const LONGEST_DELAY = 2000;
const ALIVE_EVERY = 8000; // ms of silence after which the server is told that the client lives

/** One stream. Frames go out by `send`; everything comes back through the handlers. */
export class ResqStream {
  /**
   * @param {object} [options]
   * @param {string} [options.server] origin of the server
   * @param {string | null} [options.key] API key
   * @param {StreamStart} [options.start]
   * @param {number} [options.patience] seconds to try to come back after a break
   * @param {boolean} [options.renew] begin anew where the server no longer has the stream
   * @param {Handlers} [handlers]
   */
  constructor({ server = location.origin, key = null, start = {}, patience = 60, renew = true } = {}, handlers = {}) {
    this.url = `${server.replace(/^http/, "ws").replace(/\/$/, "")}/v1/streams`;
    this.protocols = key ? ["resq.v1", bearer(key)] : ["resq.v1"];
    /** @type {Record<string, any>} */
    this.options = { ...start };
    this.patience = 1000 * patience;
    this.renew = renew;
    this.handlers = handlers;
    /** It has ended, for good. */
    this.over = false;
    /** Of `stream.started`; null before. @type {any} */
    this.info = null;
    this.credits = 0;
    this.seq = 0;
    this.ending = false;
    this.brokenAt = 0; // 0 while all is well
    this.tries = 0;
    /** @type {string | null} */
    this.token = null; // resumes the stream
    this.lost = false; // the server said that it no longer has it
    /** @type {Set<number>} */
    this.flying = new Set();
    /** @type {(() => void)[]} */
    this.waiters = [];
    this.arrived = Promise.resolve(); // results are unpacked one after another
    this.lastSent = 0;
    this.heartbeat = setInterval(() => this.sayAlive(), ALIVE_EVERY / 2);
    this.socket = this.open();
  }

  /** A frame may be sent now. */
  get isReady() {
    return !this.over && !this.ending && this.credits > 0 && this.socket.readyState === WebSocket.OPEN;
  }

  /** Resolves when a frame may be sent, or the stream is over; see `over`. */
  async ready() {
    while (!this.isReady && !this.over) await new Promise((wake) => this.waiters.push(() => wake(undefined)));
  }

  /**
   * Send a frame: a JPEG, PNG or WebP, or what `input` says.
   * @param {BufferSource} data
   * @param {{ptsUs?: number, kind?: keyof typeof KINDS, idr?: boolean, anchor?: boolean, meta?: object}} [about]
   *   ptsUs: its time in microseconds; idr: a key picture of the codec; anchor: run it as a ResQ keyframe
   * @returns {number} its seq; exactly one result or drop has the same
   */
  send(data, { ptsUs = 1000 * performance.now(), kind = "image", idr = false, anchor = false, meta } = {}) {
    if (!this.isReady) throw new Error("no frame may be sent now; await ready() first");
    const seq = this.seq++;
    this.credits -= 1;
    this.flying.add(seq);
    const flags = (idr ? FLAGS.idr : 0) | (anchor ? FLAGS.anchor : 0);
    this.socket.send(pack(KINDS[kind], flags, seq, ptsUs, data, meta));
    this.lastSent = Date.now();
    return seq;
  }

  /**
   * Change period, threshold, outputs, a pose's box or objects from the next frame on.
   * @param {Record<string, any>} changes as `stream.update`
   */
  update(changes) {
    for (const name of ["period", "threshold", "outputs"]) {
      if (name in changes) this.options[name] = changes[name];
    }
    this.text({ type: "stream.update", ...changes });
  }

  /** Ask for the answers that are still missing; `ended` is called after them. */
  end() {
    this.ending = true;
    this.text({ type: "stream.end" });
  }

  /** Leave at once; nothing is called any more. */
  close() {
    this.finish();
    this.socket.close();
  }

  /** @returns {WebSocket} */
  open() {
    const socket = new WebSocket(this.url, this.protocols);
    socket.binaryType = "arraybuffer";
    const start = this.token ? { resume: this.token } : this.options;
    socket.onopen = () => this.text({ type: "stream.start", ...start });
    const later = (/** @type {() => any} */ work) => {
      this.arrived = this.arrived.then(() => (this.over || socket !== this.socket ? undefined : work()));
    };
    socket.onmessage = ({ data }) => later(() => (typeof data === "string" ? this.message(JSON.parse(data)) : this.result(data)));
    socket.onclose = (event) => later(() => this.closed(event));
    return socket;
  }

  reopen() {
    if (!this.over) this.socket = this.open();
  }

  text(/** @type {object} */ message) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(JSON.stringify(message));
    this.lastSent = Date.now();
  }

  sayAlive() {
    if (this.info && !this.ending && Date.now() - this.lastSent > ALIVE_EVERY) this.text({ type: "stream.update" });
  }

  message(/** @type {any} */ message) {
    if (message.type === "stream.started") this.begun(message);
    else if (message.type === "drop") {
      this.answered(message.seq);
      this.call("drop", message);
    } else if (message.type === "stats") this.call("stats", message);
    else if (message.type === "stream.reset") this.call("reset", message);
    else if (message.type === "error") this.refused(message);
    else if (message.type === "stream.ended" && !(message.reason === "shutdown" && this.renew && !this.ending)) {
      this.finish();
      this.call("ended", message);
    }
  }

  begun(/** @type {any} */ started) {
    const event = started.resumed ? "resumed" : this.info ? "restarted" : "started";
    this.info = started;
    this.token = started.resume;
    this.credits = started.credits;
    this.brokenAt = this.tries = 0;
    this.wake();
    this.call(event, started);
    if (this.ending) this.end();
  }

  refused(/** @type {any} */ error) {
    if (error.code === "unknown_stream" && this.token && this.renew) {
      this.token = null;
      this.lost = true; // its close follows, and the next try begins anew
      return;
    }
    if (error.fatal) this.finish();
    this.call("problem", { message: error.message, fatal: error.fatal, name: error.code, code: null });
  }

  async result(/** @type {ArrayBuffer} */ buffer) {
    const { meta, blobs } = await unpack(buffer);
    this.answered(meta.seq);
    this.call("result", { meta, mask: blobs.mask ?? null, bitMap: blobs.bit_map ?? null, layers: blobs.layers ?? null });
  }

  answered(/** @type {number} */ seq) {
    this.flying.delete(seq);
    this.credits += 1;
    this.wake();
  }

  closed(/** @type {CloseEvent} */ event) {
    this.credits = 0;
    for (const seq of this.flying) this.call("drop", { seq, reason: "disconnected" });
    this.flying.clear();
    if (event.code === SHUTDOWN) this.token = null; // the stream went with its server
    if (this.maybeComesBack(event.code)) {
      if (!this.brokenAt) this.call("waiting", event.code === SHUTDOWN ? "shutdown" : "broken");
      this.brokenAt ||= Date.now();
      setTimeout(() => this.reopen(), Math.min(FIRST_DELAY * 2 ** this.tries++, LONGEST_DELAY));
      return;
    }
    this.finish();
    const words = { [FULL]: "the server is full", [BROKEN]: "there is no connection to the server" }[event.code];
    const message = event.reason || words || "the server closed the connection";
    this.call("problem", { message, fatal: true, name: null, code: event.code });
  }

  maybeComesBack(/** @type {number} */ code) {
    const lost = this.lost;
    this.lost = false;
    if (!this.info || this.ending || !(this.token || this.renew)) return false;
    if (this.brokenAt && Date.now() - this.brokenAt > this.patience) return false;
    return code === BROKEN || code === SHUTDOWN || lost || (this.brokenAt > 0 && code === FULL);
  }

  finish() {
    this.over = true;
    clearInterval(this.heartbeat);
    this.wake();
  }

  wake() {
    for (const wake of this.waiters.splice(0)) wake();
  }

  call(/** @type {keyof Handlers} */ name, /** @type {any} */ value) {
    this.handlers[name]?.(value);
  }
}

/** Browsers cannot set headers of a WebSocket: the key goes as a second subprotocol. */
function bearer(/** @type {string} */ key) {
  return `resq.bearer.${btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

/**
 * @param {number} kind
 * @param {number} flags
 * @param {number} seq
 * @param {number} ptsUs
 * @param {BufferSource} data
 * @param {object | undefined} meta
 */
function pack(kind, flags, seq, ptsUs, data, meta) {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const about = meta ? new TextEncoder().encode(JSON.stringify(meta)) : new Uint8Array();
  const frame = new Uint8Array(HEADER + about.length + bytes.length);
  const view = new DataView(frame.buffer);
  frame.set([MAGIC, VERSION, kind, flags]);
  view.setUint32(4, seq, true);
  view.setBigInt64(8, BigInt(Math.round(ptsUs)), true);
  view.setUint32(16, about.length, true);
  frame.set(about, HEADER);
  frame.set(bytes, HEADER + about.length);
  return frame;
}

async function unpack(/** @type {ArrayBuffer} */ buffer) {
  const length = new DataView(buffer).getUint32(16, true);
  const meta = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, HEADER, length)));
  let start = HEADER + length;
  /** @type {Record<string, any>} */
  const blobs = {};
  for (const blob of meta.blobs) {
    blobs[blob.name] = await unpackBlob(blob, new Uint8Array(buffer, start, blob.size));
    start += blob.size;
  }
  return { meta, blobs };
}

async function unpackBlob(/** @type {any} */ { format, shape }, /** @type {Uint8Array<ArrayBuffer>} */ bytes) {
  if (format === "png") return new Blob([bytes], { type: "image/png" });
  const values = await inflate(bytes);
  if (format === "zlib-json") return JSON.parse(new TextDecoder().decode(values));
  const [height, width] = shape;
  if (format === "zlib-ids") return { ids: values, width, height };
  return { bits: Float32Array.from(values, (value) => value / 30), width, height };
}

async function inflate(/** @type {Uint8Array<ArrayBuffer>} */ bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
