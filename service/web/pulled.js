// A stream that the server pulls from a URL: started over REST, its results followed as NDJSON.
// Its pictures stay with the server; what it found is drawn without them.

import { call, get, lines } from "/web/api.js";

const LOOK_EVERY = 2000; // ms between two looks at its state
const SIZE = { width: 640, height: 360 }; // of the picture before a mask says better
const PLAIN = Array.from({ length: 256 }, (_, id) => (id ? [80, 200, 190] : [26, 30, 44]));

/** Ask the server to pull; its description. Throws Refusal. */
export async function pull(url, options, isFile) {
  const { period, threshold, model, precision, fps } = options;
  const json = { url, period, threshold, model, precision, fps, mode: isFile ? "lossless" : "live", outputs: { mask: "polygons" } };
  return (await call("/v1/streams", { method: "POST", json })).json();
}

/** Follows a stream by its id; `stop` ends one's own. events: {state(words, isWell), ended(words), problem(refusal)}. */
export class PulledSession {
  constructor(id, card, isOwn, displays, events) {
    this.id = id;
    this.canEnd = isOwn;
    this.displays = displays;
    this.events = events;
    this.gone = new AbortController();
    this.canvas = document.createElement("canvas");
    Object.assign(this.canvas, SIZE);
    this.palette = card?.palette?.length ? card.palette : PLAIN;
    this.drops = null;
    displays.begin({ task: card?.task ?? "segmentation", classes: card?.classes ?? [], palette: this.palette, joints: [], skeleton: [] });
    this.looking = setInterval(() => this.look(), LOOK_EVERY);
    this.follow();
    this.look();
  }

  async follow() {
    try {
      for await (const record of lines(`/v1/streams/${this.id}/results`, this.gone.signal)) this.show(record);
      this.events.ended("The stream has ended.");
    } catch (error) {
      if (!this.gone.signal.aborted) this.events.problem(error);
    }
    this.close();
  }

  async look() {
    try {
      const facts = await get(`/v1/streams/${this.id}`, { signal: this.gone.signal });
      if (this.drops !== null) this.displays.drop(facts.drops - this.drops);
      this.drops = facts.drops;
      const { state, error } = facts.source ?? { state: "running" };
      const again = error ? `${error}; the server tries again by itself` : "";
      this.events.state({ connecting: "connecting to the source", running: "running", retrying: again, ended: "the source has ended" }[state], state !== "retrying");
    } catch {
      // the results say what is wrong
    }
  }

  show(record) {
    const pen = this.canvas.getContext("2d");
    if (record.mask) [this.canvas.height, this.canvas.width] = record.mask.size;
    pen.fillStyle = "#1a1e2c";
    pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    for (const { id, polygons } of record.mask?.objects ?? []) {
      pen.fillStyle = `rgb(${(this.palette[id] ?? [200, 200, 200]).join(",")})`;
      pen.fill(path(polygons), "evenodd");
    }
    const { receive, decode, queue, infer, encode } = record.timings;
    this.displays.show(this.canvas, { meta: record, mask: null, bitMap: null, layers: null }, receive + decode + queue + infer + encode);
  }

  /** End the stream on the server. Throws Refusal. */
  async stop() {
    await call(`/v1/streams/${this.id}`, { method: "DELETE" });
  }

  close() {
    clearInterval(this.looking);
    this.gone.abort();
  }
}

function path(polygons) {
  const made = new Path2D();
  for (const rings of polygons) {
    for (const ring of rings) {
      for (let i = 0; i < ring.length; i += 2) made[i ? "lineTo" : "moveTo"](ring[i], ring[i + 1]);
      made.closePath();
    }
  }
  return made;
}
