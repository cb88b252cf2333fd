// The picture with what was found in it: masks, skeletons, bits.

import { percent, put } from "/web/dom.js";

const MIN_SCORE = 0.2; // of a keypoint that is drawn
const NAMED = 4; // classes in the canvas's text
const OUTLINED = 0.15; // of the opacity, where bits are seen below the masks

/** Draws results on a canvas; `opacity` and `bits` ("off", "over" or "beside") are set by the page. */
export class Overlay {
  constructor(canvas, legend) {
    this.canvas = canvas;
    this.legend = legend;
    this.opacity = 0.5;
    this.begin({ task: "segmentation", classes: [], palette: [], joints: [], skeleton: [] });
  }

  /** What the ids mean, from now on. */
  begin(started) {
    this.task = started.task;
    this.palette = started.palette;
    this.skeleton = started.skeleton;
    this.names = started.task === "pose" ? started.joints : started.classes;
    this.background = started.task === "vos" ? 0 : -1;
    this.shares = new Map();
    this.last = null;
    this.items = new Map();
    this.legend.replaceChildren();
  }

  /** Draw a frame: picture is a canvas, result one of ResqStream's, heat a canvas of its bits or null. */
  draw(picture, result, heat) {
    this.last = { picture, result, heat };
    this.canvas.width = picture.width;
    this.canvas.height = picture.height;
    const pen = this.canvas.getContext("2d");
    pen.drawImage(picture, 0, 0);
    if (heat) this.stretch(pen, heat, false);
    if (result.mask?.ids) this.drawMask(pen, result.mask, heat ? OUTLINED : 1);
    if (result.meta.keypoints) this.drawSkeleton(pen, result.meta.keypoints);
    if (result.meta.keypoints && result.meta.box) this.drawBox(pen, result.meta.box);
  }

  /** Again, since a setting changed. */
  redraw() {
    if (this.last) this.draw(this.last.picture, this.last.result, this.last.heat);
  }

  drawMask(pen, { ids, width, height }, strength) {
    const layer = new ImageData(width, height);
    const pixels = new Uint32Array(layer.data.buffer);
    const fill = this.colours(255 * this.opacity * strength);
    const edge = this.colours(this.opacity ? 255 * Math.min(1, 0.35 + this.opacity) : 0);
    const counts = new Uint32Array(256);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const id = ids[i];
        counts[id] += 1;
        const inner = (x + 1 === width || ids[i + 1] === id) && (y + 1 === height || ids[i + width] === id);
        pixels[i] = inner ? fill[id] : edge[id];
      }
    }
    const small = new OffscreenCanvas(width, height);
    small.getContext("2d").putImageData(layer, 0, 0);
    this.stretch(pen, small, true);
    this.describe(counts, width * height);
  }

  /** Colours by id as little-endian RGBA. */
  colours(alpha) {
    const table = new Uint32Array(256);
    this.palette.forEach(([r, g, b], id) => {
      if (id !== this.background) table[id] = ((Math.round(alpha) << 24) | (b << 16) | (g << 8) | r) >>> 0;
    });
    return table;
  }

  stretch(pen, small, smooth) {
    pen.imageSmoothingEnabled = smooth;
    pen.drawImage(small, 0, 0, this.canvas.width, this.canvas.height);
  }

  drawSkeleton(pen, points) {
    const seen = (i) => points[i][2] > MIN_SCORE;
    pen.globalAlpha = Math.min(1, 2 * this.opacity);
    pen.lineWidth = Math.max(2, this.canvas.width / 160);
    pen.lineCap = "round";
    for (const [a, b] of this.skeleton) {
      if (!seen(a) || !seen(b)) continue;
      pen.strokeStyle = rgb(this.palette[b]);
      pen.beginPath();
      pen.moveTo(points[a][0], points[a][1]);
      pen.lineTo(points[b][0], points[b][1]);
      pen.stroke();
    }
    points.forEach(([x, y], i) => {
      if (!seen(i)) return;
      pen.fillStyle = rgb(this.palette[i]);
      pen.beginPath();
      pen.arc(x, y, pen.lineWidth, 0, 7);
      pen.fill();
    });
    pen.globalAlpha = 1;
    const found = points.filter((_, i) => seen(i)).length;
    this.name(`a pose with ${found} of ${points.length} joints`);
  }

  drawBox(pen, [x, y, width, height]) {
    pen.strokeStyle = "#fff8";
    pen.lineWidth = 1;
    pen.setLineDash([6, 4]);
    pen.strokeRect(x, y, width, height);
    pen.setLineDash([]);
  }

  /** The list under the picture and the canvas's text say the same as the colours. */
  describe(counts, total) {
    const found = [...counts.keys()].filter((id) => counts[id] && id !== this.background && this.palette[id]);
    found.sort((a, b) => counts[b] - counts[a]);
    for (const id of found) if (!this.items.has(id)) this.addItem(id);
    for (const [id, item] of this.items) {
      item.hidden = !counts[id];
      put(item.lastChild, share(counts[id] / total));
    }
    const words = found.slice(0, NAMED).map((id) => `${this.label(id)} ${share(counts[id] / total)}`);
    this.name(words.join(", ") || "nothing found");
  }

  label(id) {
    return this.task === "vos" ? `object ${id}` : (this.names[id] ?? `class ${id}`).replaceAll("_", " ");
  }

  addItem(id) {
    const [item, swatch, figure] = ["li", "i", "b"].map((tag) => document.createElement(tag));
    swatch.style.background = rgb(this.palette[id]);
    item.append(swatch, ` ${this.label(id)} `, figure);
    this.items.set(id, item);
    const later = [...this.items.keys()].sort((a, b) => a - b).find((other) => other > id);
    this.legend.insertBefore(item, later === undefined ? null : this.items.get(later));
  }

  name(words) {
    this.canvas.setAttribute("aria-label", `The picture: ${words}`);
  }
}

const share = (part) => (part < 0.005 ? "<1 %" : percent(part));
const rgb = (colour) => `rgb(${colour.join(",")})`;
