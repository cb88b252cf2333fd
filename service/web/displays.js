// What is shown of a stream's results, whoever it belongs to.

import { byId, percent, put } from "/web/dom.js";
import { bitWords, heat, LayerMap } from "/web/heatmap.js";
import { Overlay } from "/web/overlay.js";
import { Strip } from "/web/strip.js";

const KEPT = 20_000; // results for the download, about half an hour

export class Displays {
  constructor() {
    this.overlay = new Overlay(byId("picture"), byId("legend"));
    this.strip = new Strip(byId("strip"));
    this.layers = new LayerMap();
    this.bits = "off"; // or "over", "beside"
    this.log = [];
  }

  /** A stream begins; `started` says what its ids mean. */
  begin(started) {
    this.overlay.begin(started);
    this.strip.clear();
    this.layers.clear();
    this.log = [];
    this.bitMap = null;
    this.wasAnchor = false;
    this.degraded(null);
  }

  /** picture: a canvas; result: of ResqStream; latency: ms. */
  show(picture, result, latency) {
    const { meta } = result;
    this.log.push({ ...meta, blobs: undefined, latency_ms: Math.round(latency) });
    if (this.log.length > KEPT) this.log.shift();
    const bitMap = this.steadyBits(meta, result.bitMap);
    this.overlay.draw(picture, result, this.bits === "over" && bitMap ? heat(bitMap, true) : null);
    if (this.bits === "beside" && bitMap) this.drawBeside(picture, bitMap);
    if (result.layers) this.layers.add(result.layers);
    this.strip.add({ saving: meta.bops.saving, bits: meta.mean_bits, active: meta.active_fraction, latency, isAnchor: meta.is_anchor });
    this.degraded(meta.degraded);
    put("rate", `${this.strip.rate.toFixed(1)} results/s`);
    put("backend", meta.backend);
    put("count", `frame ${meta.index + 1}`);
  }

  /** The last residual frame's bits: anchors, which are bright all over, would make it flash. */
  steadyBits({ is_anchor: isAnchor }, bitMap) {
    if (!isAnchor || this.wasAnchor || !this.bitMap) this.bitMap = bitMap;
    this.wasAnchor = isAnchor;
    return this.bitMap;
  }

  drop(count = 1) {
    this.strip.drop(count);
  }

  drawBeside(picture, bitMap) {
    const canvas = byId("bitsPicture");
    canvas.width = picture.width;
    canvas.height = picture.height;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(heat(bitMap, false), 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("aria-label", bitWords(bitMap));
  }

  /** What the operator took from the stream while the server is short of time. */
  degraded(facts) {
    byId("degraded").hidden = !facts;
    if (!facts) return;
    const rate = facts.one_of > 1 ? `, one frame of ${facts.one_of}` : "";
    put("degraded", `The server is short of time and runs this stream with T ${facts.period}, ρ ${facts.threshold.toFixed(3)}${rate}.`);
  }

  /** The results so far as NDJSON. */
  results() {
    return new Blob(this.log.map((meta) => `${JSON.stringify(meta)}\n`), { type: "application/x-ndjson" });
  }

  /** What came of a stream, for the status line. */
  static summary({ results, received, saving }) {
    return `${results} of ${received} frames, ${percent(saving)} of the bit operations saved`;
  }
}
