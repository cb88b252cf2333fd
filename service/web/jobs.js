// One clip job on the page: its progress, and what came of it.

import { call, get } from "/web/api.js";
import { figures } from "/web/controls.js";
import { clock, download, make, percent, put } from "/web/dom.js";
import { sentence } from "/web/words.js";

const STATES = { uploading: "uploading", queued: "waiting", running: "running", done: "done", failed: "failed", cancelled: "stopped" };
const FINISHED = ["done", "failed", "cancelled"];

export const isFinished = (job) => FINISHED.includes(job.state);

/** A row of the list. attempt(work): does work and says what went wrong. */
export class JobRow {
  constructor(job, name, attempt) {
    this.job = job;
    this.attempt = attempt;
    this.state = make("span", { className: "badge" });
    this.bar = make("progress", { max: 1, "aria-label": `Progress of ${name}` });
    this.words = make("span", { className: "dim" });
    this.buttons = make("div", { className: "actions" });
    this.detail = make("div", { className: "detail", hidden: true });
    const title = make("div", { className: "row-title" }, make("b", {}, name), this.state);
    this.element = make("li", { className: "card row" }, title, this.bar, this.words, this.buttons, this.detail);
    this.element.dataset.id = job.id;
    const button = (words, work, kind = "") => {
      const made = make("button", { type: "button", className: kind, "aria-label": `${words}: ${name}` }, words);
      made.addEventListener("click", () => this.attempt(work));
      return made;
    };
    this.show = button("Show", () => this.open());
    this.show.setAttribute("aria-expanded", "false");
    this.results = button("Results", () => this.save("results", "ndjson"));
    this.buttons.append(this.show, this.results, button("Delete", () => this.remove(), "quiet"));
    this.update(job);
  }

  update(job) {
    this.job = job;
    put(this.state, STATES[job.state]);
    this.state.dataset.state = job.state;
    this.bar.hidden = isFinished(job);
    if (job.progress === null) this.bar.removeAttribute("value");
    else this.bar.value = job.progress;
    const made = new Date(1000 * job.created).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const far = job.progress === null || isFinished(job) ? "" : ` · ${percent(job.progress)}`;
    put(this.words, job.error ? sentence(job.error) : `${job.model} · ${made} · ${job.results} results${far}`);
    this.show.disabled = job.state !== "done";
    this.results.disabled = !job.results;
  }

  async open() {
    const wasOpen = !this.detail.hidden;
    this.show.setAttribute("aria-expanded", String(!wasOpen));
    this.detail.hidden = wasOpen;
    if (wasOpen || this.detail.childElementCount) return;
    this.detail.append(make("p", { role: "status" }, "Fetching the video …"));
    const path = `/v1/clips/${this.job.id}`;
    const [report, video] = await Promise.all([get(`${path}/report`), call(`${path}/video`).then((answer) => answer.blob())]);
    this.address = URL.createObjectURL(video);
    const player = make("video", { src: this.address, controls: true, muted: true, loop: true, "aria-label": "The annotated video" });
    const save = make("button", { type: "button" }, "Save the video");
    save.addEventListener("click", () => download(video, `${this.job.id}.mp4`));
    this.detail.replaceChildren(player, figures(facts(report)), save);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) player.play().catch(() => {});
  }

  async save(what, ending) {
    const answer = await call(`/v1/clips/${this.job.id}/${what}`);
    download(await answer.blob(), `${this.job.id}.${ending}`);
  }

  async remove() {
    await call(`/v1/clips/${this.job.id}`, { method: "DELETE" });
    this.gone();
  }

  gone() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.element.remove();
  }
}

function facts(report) {
  return [
    ["BOPs saved against W8A8", percent(report.bop_saving, 1)],
    ["mean bits", report.mean_bits.toFixed(2)],
    ["frames", `${report.results} of ${report.frames}`],
    ["anchors", report.anchors],
    ["precision", report.precision],
    ["T, ρ", `${report.period}, ${report.threshold}`],
    ["took", clock(report.seconds)],
    ["backend", report.backend ?? "–"],
  ];
}
