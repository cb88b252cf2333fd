// A client of the WebSocket protocol resq.v1: framing, credits, results. No page in it.

const HEADER = 24;
const MAGIC = 0x51;
const IMAGE = 1;

const TRIES = 6; // to come back after the connection broke, for 16 s in all
const FIRST_DELAY = 250; // ms
const COMES_BACK = [1006, 1013]; // broken off; no place at the moment

export class ResqStream {
  // handlers: started(message), resumed(message), result(meta, blobs), drop(message),
  // problem(text, fatal, close code), ended(message); key: an API key, or null.
  // Frames on their way when the connection breaks are not answered: resumed() says that it did.
  constructor(url, key, options, handlers) {
    this.url = url;
    this.protocols = key ? ["resq.v1", bearer(key)] : ["resq.v1"];
    this.handlers = handlers;
    this.credits = 0;
    this.seq = 0;
    this.over = false;
    this.ending = false;
    this.token = null;
    this.tries = 0;
    this.open(options);
  }

  open(start) {
    this.socket = new WebSocket(this.url, this.protocols);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.text({ type: "stream.start", ...start });
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = (event) => this.closed(event);
  }

  get ready() {
    return this.credits > 0 && this.socket.readyState === WebSocket.OPEN;
  }

  text(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  update(changes) {
    this.text({ type: "stream.update", ...changes });
  }

  end() {
    this.ending = true;
    this.text({ type: "stream.end" });
  }

  sendImage(bytes, ptsUs) {
    const frame = new Uint8Array(HEADER + bytes.byteLength);
    const view = new DataView(frame.buffer);
    view.setUint8(0, MAGIC);
    view.setUint8(1, 1);
    view.setUint8(2, IMAGE);
    view.setUint32(4, this.seq, true);
    view.setBigInt64(8, BigInt(Math.round(ptsUs)), true);
    frame.set(new Uint8Array(bytes), HEADER);
    this.credits -= 1;
    this.socket.send(frame);
    return this.seq++;
  }

  receive(data) {
    if (typeof data !== "string") return this.result(data);
    const message = JSON.parse(data);
    if (message.type === "stream.started") {
      this.credits = message.credits;
      this.token = message.resume;
      this.tries = 0;
      if (message.resumed) this.handlers.resumed(message);
      else this.handlers.started(message);
      if (this.ending) this.end();
    } else if (message.type === "drop") {
      this.credits += 1;
      this.handlers.drop(message);
    } else if (message.type === "error") {
      this.over = this.over || message.fatal;
      this.handlers.problem(message.message, message.fatal);
    } else if (message.type === "stream.ended") {
      this.over = true;
      this.handlers.ended(message);
    }
  }

  async result(buffer) {
    this.credits += 1;
    const view = new DataView(buffer);
    const length = view.getUint32(16, true);
    const meta = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, HEADER, length)));
    let start = HEADER + length;
    const blobs = {};
    for (const blob of meta.blobs) {
      const bytes = new Uint8Array(buffer, start, blob.size);
      start += blob.size;
      if (blob.format === "zlib-ids" || blob.format === "zlib-u8") {
        blobs[blob.name] = { values: await inflate(bytes), shape: blob.shape };
      }
    }
    this.handlers.result(meta, blobs);
  }

  closed(event) {
    if (this.over) return;
    this.credits = 0;
    if (this.token && COMES_BACK.includes(event.code) && this.tries < TRIES) {
      setTimeout(() => this.open({ resume: this.token }), FIRST_DELAY * 2 ** this.tries++);
      return;
    }
    this.over = true;
    const words = event.reason || { 1013: "The server is full; try again later." }[event.code];
    this.handlers.problem(words || "The connection to the server was lost.", true, event.code);
  }
}

// Browsers cannot set headers of a WebSocket: the key goes as a second subprotocol.
function bearer(key) {
  return `resq.bearer.${btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
