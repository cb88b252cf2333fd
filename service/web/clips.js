// Clip jobs: upload one, see how far all are, and what came of them.

import { get, upload } from "/web/api.js";
import { byId, bytes, percent, put } from "/web/dom.js";
import { isFinished, JobRow } from "/web/jobs.js";
import { complain, say } from "/web/notice.js";

const LOOK_EVERY = 1000; // ms while a job runs
const IDLE_EVERY = 10_000; // ms otherwise: others may have sent one

export class Clips {
  constructor() {
    this.rows = new Map(); // id -> JobRow
    this.names = new Map(); // id -> file name, of those sent from this tab
    this.models = [];
    this.isShown = false;
    this.timer = null;
    byId("clipForm").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    byId("clipStop").addEventListener("click", () => this.sending?.abort());
    byId("clipModel").addEventListener("change", () => this.choose());
  }

  offer(models, first) {
    this.models = models;
    const before = byId("clipModel").value;
    byId("clipModel").replaceChildren(...models.map((m) => new Option(m.title, m.name)));
    byId("clipModel").value = models.some((m) => m.name === before) ? before : first;
    this.choose();
  }

  choose() {
    const model = this.models.find((each) => each.name === byId("clipModel").value);
    const follows = model?.task === "vos";
    byId("clipMasksField").hidden = !follows;
    byId("clipMasks").required = follows;
    byId("clipPrecision").replaceChildren(...(model?.precisions ?? []).map((p, i) => new Option(i ? p : `${p} (default)`, i ? p : "")));
  }

  async send() {
    const [file] = byId("clipFile").files;
    const query = new URLSearchParams();
    for (const [id, name] of Object.entries({ clipModel: "model", clipPrecision: "precision", clipPeriod: "period", clipThreshold: "threshold" })) {
      if (byId(id).value) query.set(name, byId(id).value);
    }
    this.sending = new AbortController();
    this.progress(0, file);
    try {
      const job = await upload(`/v1/clips?${query}`, body(file), (share) => this.progress(share, file), this.sending.signal);
      this.names.set(job.id, file.name);
      say(`${file.name} is on the server. Results appear below as they come.`, "good");
      byId("clipForm").reset();
      this.choose();
    } catch (error) {
      if (error.name === "stopped") say("The upload was stopped.");
      else complain(error);
    }
    this.sending = null;
    byId("clipUpload").hidden = true;
    byId("clipSend").disabled = false;
    await this.look();
  }

  progress(share, file) {
    byId("clipUpload").hidden = false;
    byId("clipSend").disabled = true;
    byId("clipBar").value = share;
    put("clipWords", share < 1 ? `${percent(share)} of ${bytes(file.size)}` : "The server checks it …");
  }

  /** Look at the jobs now and then, while the view is shown. */
  show(isShown) {
    this.isShown = isShown;
    clearTimeout(this.timer);
    if (isShown) this.look();
  }

  async look() {
    clearTimeout(this.timer);
    let wait = IDLE_EVERY;
    try {
      const { clips } = await get("/v1/clips");
      this.list(clips);
      if (clips.some((job) => !isFinished(job))) wait = LOOK_EVERY;
    } catch (error) {
      complain(error);
    }
    if (this.isShown) this.timer = setTimeout(() => this.look(), wait);
  }

  list(jobs) {
    for (const [id, row] of this.rows) {
      if (jobs.some((job) => job.id === id)) continue;
      row.gone();
      this.rows.delete(id);
    }
    for (const job of jobs) {
      const row = this.rows.get(job.id);
      if (row) row.update(job);
      else this.add(job);
    }
    byId("clipsEmpty").hidden = jobs.length > 0;
  }

  add(job) {
    const attempt = async (work) => {
      try {
        await work();
      } catch (error) {
        complain(error);
      }
      if (!row.element.isConnected) {
        byId("clipsTitle").focus();
        this.look();
      }
    };
    const row = new JobRow(job, this.names.get(job.id) ?? `Clip ${job.id.slice(0, 8)}`, attempt);
    this.rows.set(job.id, row);
    byId("clipList").prepend(row.element);
  }
}

/** The clip, with the masks of its first frame where the model wants some. */
function body(file) {
  if (!byId("clipMasks").required) return file;
  const form = new FormData();
  form.append("clip", file);
  form.append("masks", byId("clipMasks").files[0]);
  return form;
}
