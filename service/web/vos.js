// Marking objects on a picture, by mouse, finger or keyboard: boxes and brush strokes.

import { byId, make, put } from "/web/dom.js";

const MOST = 32; // objects, as the protocol
const STEP = 4; // pixels by arrow key; 5 times as many with Shift
const UNDO = 20;

/** Object ids by pixel, as run lengths down the columns: what a `vos` option or `add_objects` takes. */
export function describe(ids, width, height, wanted) {
  return wanted.map((id) => {
    const counts = [];
    let value = false;
    let run = 0;
    for (let x = 0; x < width; x++) {
      for (let y = 0; y < height; y++) {
        const here = ids[y * width + x] === id;
        if (here !== value) {
          counts.push(run);
          run = 0;
          value = here;
        }
        run += 1;
      }
    }
    counts.push(run);
    return { id, rle: { size: [height, width], counts } };
  });
}

/** The box [x, y, width, height] around one id. */
export function boxAround(ids, width, id) {
  let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
  ids.forEach((value, i) => {
    if (value !== id) return;
    const [x, y] = [i % width, Math.floor(i / width)];
    [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
  });
  return [left, top, right - left + 1, bottom - top + 1];
}

/** Lets someone mark objects; one at a time uses it. */
export class Marker {
  constructor() {
    this.canvas = byId("marks");
    this.panel = byId("marking");
    this.done = null;
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", () => this.release());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    byId("markAdd").addEventListener("click", () => this.choose(this.ids.at(-1) + 1));
    byId("markUndo").addEventListener("click", () => this.undo());
    byId("markDone").addEventListener("click", () => this.finish(true));
    byId("markCancel").addEventListener("click", () => this.finish(false));
  }

  /**
   * Mark on a picture; the marks {ids: Uint8Array, width, height, found: [id]}, or null.
   * firstId: of new objects; one: there is a single one; palette: colours by id.
   */
  begin(picture, { firstId, one, palette, words }) {
    Object.assign(this, { picture, palette, one, cursor: null, corner: null, past: [] });
    const { width, height } = picture;
    Object.assign(this.canvas, { width, height });
    this.canvas.style.setProperty("--ratio", width / height);
    this.marks = new Uint8Array(width * height);
    this.ids = [];
    this.canvas.hidden = this.panel.hidden = false;
    byId("markAdd").hidden = one;
    put("markWords", words);
    this.choose(firstId);
    this.canvas.focus();
    return new Promise((done) => (this.done = done));
  }

  finish(isWanted) {
    this.canvas.hidden = this.panel.hidden = true;
    const { width, height } = this.canvas;
    const found = this.ids.filter((id) => this.marks.includes(id));
    this.done(isWanted && found.length ? { ids: this.marks, width, height, found } : null);
    this.done = null;
  }

  /** Mark this object from now on. */
  choose(id) {
    if (!this.ids.includes(id)) this.ids.push(id);
    this.current = id;
    byId("markAdd").disabled = this.ids.length >= MOST;
    const chips = this.ids.map((each) => {
      const swatch = make("i", { className: "swatch" });
      swatch.style.background = `rgb(${this.colour(each).join(",")})`;
      const chip = make("button", { type: "button", className: "chip", "aria-pressed": String(each === id) }, swatch, `Object ${each}`);
      chip.addEventListener("click", () => this.choose(each));
      return chip;
    });
    byId("markObjects").replaceChildren(...(this.one ? [] : chips));
    this.draw();
  }

  colour(id) {
    return this.palette[id] ?? [80, 200, 255];
  }

  get tool() {
    return document.querySelector("input[name=markTool]:checked").value;
  }

  keep() {
    this.past.push(this.marks.slice());
    if (this.past.length > UNDO) this.past.shift();
  }

  undo() {
    this.marks = this.past.pop() ?? this.marks;
    this.draw();
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const limit = (value, most) => Math.max(0, Math.min(most - 1, Math.round(value)));
    return [
      limit(((event.clientX - box.left) * this.canvas.width) / box.width, this.canvas.width),
      limit(((event.clientY - box.top) * this.canvas.height) / box.height, this.canvas.height),
    ];
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.start(this.at(event));
  }

  start(place) {
    this.keep();
    this.corner = this.cursor = place;
    if (this.tool !== "box") this.stroke(place, place);
    this.draw();
  }

  move(event) {
    if (!this.corner) return;
    const place = this.at(event);
    if (this.tool !== "box") this.stroke(this.cursor, place);
    this.cursor = place;
    this.draw();
  }

  release() {
    if (!this.corner) return;
    if (this.tool === "box") this.box(this.corner, this.cursor);
    this.corner = null;
    this.draw();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const { width, height } = this.canvas;
    if (steps) {
      const [x, y] = this.cursor ?? [width >> 1, height >> 1];
      const step = STEP * (event.shiftKey ? 5 : 1);
      this.cursor = [Math.max(0, Math.min(width - 1, x + step * steps[0])), Math.max(0, Math.min(height - 1, y + step * steps[1]))];
      put("markWords", `Crosshair at ${this.cursor.join(", ")}${this.corner ? "; Enter closes the box" : ""}`);
    } else if (event.key === "Enter" || event.key === " ") {
      this.cursor ??= [width >> 1, height >> 1];
      if (this.corner) this.release();
      else {
        this.start(this.cursor);
        if (this.tool !== "box") this.release();
        else put("markWords", "The box begins here; move, then Enter closes it");
      }
    } else if (event.key === "Escape" && this.corner) this.corner = null;
    else return;
    event.preventDefault();
    this.draw();
  }

  box([x0, y0], [x1, y1]) {
    const { width } = this.canvas;
    for (let y = Math.min(y0, y1); y <= Math.max(y0, y1); y++) {
      this.marks.fill(this.current, y * width + Math.min(x0, x1), y * width + Math.max(x0, x1) + 1);
    }
    put("markWords", `A box for object ${this.current}, ${Math.abs(x1 - x0) + 1} by ${Math.abs(y1 - y0) + 1} pixels`);
  }

  stroke([x0, y0], [x1, y1]) {
    const id = this.tool === "erase" ? 0 : this.current;
    const radius = Number(byId("markSize").value) / 2;
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(1, radius / 2)));
    for (let i = 0; i <= steps; i++) this.disc(x0 + ((x1 - x0) * i) / steps, y0 + ((y1 - y0) * i) / steps, radius, id);
  }

  disc(cx, cy, radius, id) {
    const { width, height } = this.canvas;
    for (let y = Math.max(0, Math.ceil(cy - radius)); y <= Math.min(height - 1, cy + radius); y++) {
      const half = Math.sqrt(radius * radius - (y - cy) ** 2);
      this.marks.fill(id, y * width + Math.max(0, Math.ceil(cx - half)), y * width + Math.min(width - 1, Math.floor(cx + half)) + 1);
    }
  }

  draw() {
    const { width, height } = this.canvas;
    const pen = this.canvas.getContext("2d");
    const layer = new ImageData(width, height);
    const pixels = new Uint32Array(layer.data.buffer);
    const table = new Uint32Array(256);
    for (const id of this.ids) {
      const [r, g, b] = this.colour(id);
      table[id] = ((150 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    }
    this.marks.forEach((id, i) => (pixels[i] = table[id]));
    pen.putImageData(layer, 0, 0);
    pen.globalCompositeOperation = "destination-over";
    pen.drawImage(this.picture, 0, 0);
    pen.globalCompositeOperation = "source-over";
    if (this.cursor) this.drawCursor(pen, width, height);
  }

  drawCursor(pen, width, height) {
    const [x, y] = this.cursor;
    pen.strokeStyle = "#fff";
    pen.lineWidth = 1;
    if (this.corner && this.tool === "box") pen.strokeRect(this.corner[0], this.corner[1], x - this.corner[0], y - this.corner[1]);
    pen.beginPath();
    for (const [x0, y0, x1, y1] of [[x, 0, x, height], [0, y, width, y]]) {
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    pen.globalAlpha = 0.5;
    pen.stroke();
    pen.globalAlpha = 1;
  }
}
