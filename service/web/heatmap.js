// Where the bits go: by place on a canvas, by layer and frame on another.

import { byId, make, percent, put } from "/web/dom.js";

const STOPS = [[26, 30, 44], [38, 148, 152], [250, 226, 110]]; // 0, 4 and 8 bits
const ALPHA = 0.62; // over the picture
const COLUMNS = 240; // frames in the picture of the layers
const TABLE_EVERY = 1000; // ms

/** RGB of 0 to 8 bits. */
export function bitColour(bits) {
  const place = Math.min(1.999, Math.max(0, bits / 4));
  const low = Math.floor(place);
  return STOPS[low].map((from, c) => Math.round(from + (STOPS[low + 1][c] - from) * (place - low)));
}

const TABLE = Array.from({ length: 241 }, (_, i) => bitColour(i / 30)); // by thirtieth of a bit

/** A small canvas of a bit map, to be stretched; clear says that a picture shines through. */
export function heat({ bits, width, height }, clear) {
  const layer = new ImageData(width, height);
  bits.forEach((value, i) => {
    layer.data.set(TABLE[Math.min(240, Math.round(30 * value))], 4 * i);
    layer.data[4 * i + 3] = clear ? 255 * ALPHA : 255;
  });
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(layer, 0, 0);
  return small;
}

/** Share of places with no bits, up to 4, above 4, as words. */
export function bitWords({ bits }) {
  const none = bits.filter((value) => value < 0.5).length / bits.length;
  const many = bits.filter((value) => value > 4.5).length / bits.length;
  return `Bits by place: ${percent(none)} of the picture none, ${percent(1 - none - many)} up to 4, ${percent(many)} more`;
}

/** Mean bits of every layer, a column per frame; the newest frame as a table. */
export class LayerMap {
  constructor() {
    this.canvas = byId("layerMap");
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.sayNewest());
    this.clear();
  }

  clear() {
    this.frames = [];
    this.tableAt = 0;
    byId("layerTable").replaceChildren();
    put("layerWords", "Each row is a layer of the network, each column a frame.");
  }

  /** layers: of one result. */
  add(layers) {
    if (this.frames.length && this.frames[0].length !== layers.length) this.clear();
    this.frames.push(layers);
    if (this.frames.length > COLUMNS) this.frames.shift();
    this.draw();
    if (performance.now() - this.tableAt > TABLE_EVERY) this.table(layers);
  }

  draw() {
    const rows = this.frames[0].length;
    const picture = new ImageData(COLUMNS, rows);
    this.frames.forEach((layers, i) => {
      const column = COLUMNS - this.frames.length + i;
      layers.forEach(({ mean_bits: bits }, row) => {
        picture.data.set([...TABLE[Math.min(240, Math.round(30 * bits))], 255], 4 * (row * COLUMNS + column));
      });
    });
    Object.assign(this.canvas, { width: COLUMNS, height: rows });
    this.canvas.style.height = `${Math.min(420, Math.max(120, 7 * rows))}px`;
    this.canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((COLUMNS * (event.clientX - box.left)) / box.width) - COLUMNS + this.frames.length;
    const layer = this.frames[column]?.[Math.floor((this.frames[column].length * (event.clientY - box.top)) / box.height)];
    if (layer) put("layerWords", `${layer.name}: ${layer.mean_bits.toFixed(1)} bits, ${percent(layer.active_fraction)} computed`);
  }

  sayNewest() {
    const layers = this.frames.at(-1);
    if (!layers) return;
    const most = layers.reduce((a, b) => (b.bops > a.bops ? b : a));
    put("layerWords", `${layers.length} layers; most bit operations now: ${most.name}, ${giga(most.bops)} at ${most.mean_bits.toFixed(1)} bits.`);
  }

  table(layers) {
    this.tableAt = performance.now();
    this.sayNewest();
    this.canvas.setAttribute("aria-label", `Mean bits by layer and frame. ${byId("layerWords").textContent}`);
    if (!byId("layerDetails").open) return;
    const rows = layers.map(({ name, mean_bits: bits, active_fraction: active, bops }) =>
      make("tr", {}, make("th", { scope: "row" }, name), ...[bits.toFixed(1), percent(active), giga(bops)].map((text) => make("td", {}, text))),
    );
    byId("layerTable").replaceChildren(...rows);
  }
}

const giga = (bops) => `${(bops / 1e9).toFixed(2)} GBOP`;
