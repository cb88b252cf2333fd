// The last two minutes, frame by frame: what it cost, how fine it was, how long it took.

import { colour, make, percent, put, sharp } from "/web/dom.js";

const WINDOW = 120_000; // ms that are kept
const SHORTEST = 20_000; // ms that are shown when a stream is young
const RECENT = 5000; // ms that the figures are a mean of
const DRAW_EVERY = 100; // ms
const NAME_EVERY = 3000; // ms between two changes of the canvases' text
const PAUSE = 3000; // ms without results break the line
const FOOT = 7; // pixels for the marks of anchors

// without the first frames, for which a model may be loaded
const usual = (values) => values.toSorted((a, b) => a - b)[Math.floor(0.95 * (values.length - 1))] || 100;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// value: of a sample; top: of the scale; line: where a baseline is drawn; show: of a mean
const ROWS = [
  { id: "bops", label: "BOPs", help: "bit operations, against W8A8 frames", value: (s) => 1 - s.saving, top: () => 1.15, line: 1, show: (v) => percent(v) },
  { id: "bits", label: "Mean bits", help: "of an activation, 0 to 8", value: (s) => s.bits, top: () => 8.8, line: 8, show: (v) => v.toFixed(2) },
  { id: "active", label: "Active", help: "outputs that were computed", value: (s) => s.active, top: () => 1.1, line: 1, show: (v) => percent(v) },
  { id: "latency", label: "Latency", help: "milliseconds from sent to shown", value: (s) => s.latency, top: (samples) => 1.5 * usual(samples.map((s) => s.latency)), show: (v) => `${Math.round(v)} ms` },
];

export class Strip {
  constructor(target) {
    this.rows = ROWS.map((row) => ({ ...row, ...addRow(target, row) }));
    this.drops = addRow(target, { id: "drops", label: "Drops", help: "frames without a result" });
    this.from = make("span", {});
    target.append(make("p", { className: "strip-axis", "aria-hidden": "true" }, this.from, make("span", {}, "now")));
    this.timer = null;
    this.namedAt = 0;
    this.clear();
    new ResizeObserver(() => this.draw()).observe(target);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.samples = [];
    this.dropped = [];
    this.dropCount = 0;
    this.draw();
  }

  /** One result: {saving, bits, active, latency, isAnchor}. */
  add(sample) {
    this.samples.push({ ...sample, time: performance.now() });
    this.later();
  }

  /** So many frames got no result. */
  drop(count = 1) {
    this.dropCount += count;
    this.dropped.push({ count, time: performance.now() });
    this.later();
  }

  /** Results per second over the last seconds. */
  get rate() {
    const recent = this.recent();
    return recent.length > 1 ? (1000 * (recent.length - 1)) / (recent.at(-1).time - recent[0].time) : 0;
  }

  recent() {
    const from = performance.now() - RECENT;
    const start = this.samples.findLastIndex((sample) => sample.time < from) + 1;
    return this.samples.slice(start);
  }

  later() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.draw();
    }, DRAW_EVERY);
  }

  draw() {
    const now = performance.now();
    const old = (entry) => now - entry.time > WINDOW;
    while (this.samples.length && old(this.samples[0])) this.samples.shift();
    while (this.dropped.length && old(this.dropped[0])) this.dropped.shift();
    const first = this.samples[0]?.time ?? now;
    this.span = Math.min(WINDOW, Math.max(SHORTEST, now - first));
    put(this.from, `${Math.round(this.span / 1000)} s ago`);
    const recent = this.recent();
    const shown = recent.length ? recent : this.samples.slice(-1);
    for (const row of this.rows) {
      put(row.figure, shown.length ? row.show(mean(shown.map(row.value))) : "–");
      this.drawRow(row, now);
    }
    put(this.drops.figure, this.dropCount);
    this.drawDrops(now);
    if (now - this.namedAt > NAME_EVERY) this.nameRows(now);
  }

  drawRow(row, now) {
    const { pen, width, height } = sharp(row.canvas);
    if (width < 2) return;
    const top = row.top(this.samples);
    const x = (time) => width - ((now - time) / this.span) * width;
    const y = (value) => 2 + (1 - Math.max(0, Math.min(1, value / top))) * (height - FOOT - 3);
    frame(pen, width, height - FOOT);
    if (row.line !== undefined) dashed(pen, y(row.line), width);
    if (!this.samples.length) return;
    pen.strokeStyle = colour("--accent");
    pen.fillStyle = colour("--accent-wash");
    pen.lineWidth = 1.5;
    pen.lineJoin = "round";
    for (const run of runs(this.samples)) {
      pen.beginPath();
      for (const sample of run) pen.lineTo(x(sample.time), y(row.value(sample)));
      pen.stroke();
      pen.lineTo(x(run.at(-1).time), height - FOOT);
      pen.lineTo(x(run[0].time), height - FOOT);
      pen.fill();
    }
    pen.fillStyle = colour("--mark");
    for (const sample of this.samples) if (sample.isAnchor) pen.fillRect(x(sample.time) - 1, height - FOOT + 1, 2, FOOT - 1);
  }

  drawDrops(now) {
    const { pen, width, height } = sharp(this.drops.canvas);
    if (width < 2) return;
    frame(pen, width, height - FOOT);
    pen.fillStyle = colour("--bad");
    const seconds = new Map();
    for (const { count, time } of this.dropped) {
      const second = Math.floor(time / 1000);
      seconds.set(second, (seconds.get(second) ?? 0) + count);
    }
    const most = Math.max(5, ...seconds.values());
    for (const [second, count] of seconds) {
      const tall = (count / most) * (height - FOOT - 3);
      pen.fillRect(width - ((now - 1000 * second) / this.span) * width, height - FOOT - tall, Math.max(2, width / 140), tall);
    }
  }

  nameRows(now) {
    this.namedAt = now;
    for (const row of this.rows) {
      const values = this.samples.map(row.value);
      const words = values.length ? `now ${row.figure.textContent}, from ${row.show(Math.min(...values))} to ${row.show(Math.max(...values))} in the last two minutes` : "no results yet";
      row.canvas.setAttribute("aria-label", `${row.label}, ${row.help}: ${words}`);
    }
    this.drops.canvas.setAttribute("aria-label", `Drops: ${this.dropCount} in all`);
  }
}

function addRow(target, { id, label, help }) {
  const figure = make("b", { id: `${id}Figure` }, "–");
  const canvas = make("canvas", { id: `${id}Strip`, role: "img", "aria-label": `${label}: no results yet` });
  target.append(make("div", { className: "strip-row" }, make("div", { className: "strip-label" }, figure, make("span", {}, label), make("small", {}, help)), canvas));
  return { label, help, figure, canvas };
}

/** The samples between pauses. */
function runs(samples) {
  const found = [];
  samples.forEach((sample, i) => {
    if (i && sample.time - samples[i - 1].time < PAUSE) found.at(-1).push(sample);
    else found.push([sample]);
  });
  return found;
}

function frame(pen, width, height) {
  pen.strokeStyle = colour("--line");
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(0, height + 0.5);
  pen.lineTo(width, height + 0.5);
  pen.stroke();
}

function dashed(pen, y, width) {
  pen.strokeStyle = colour("--dim");
  pen.lineWidth = 1;
  pen.setLineDash([3, 4]);
  pen.beginPath();
  pen.moveTo(0, y);
  pen.lineTo(width, y);
  pen.stroke();
  pen.setLineDash([]);
}
