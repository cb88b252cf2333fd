// The streams of the server: what runs, what it costs, and an end to it.

import { call, get } from "/web/api.js";
import { figures } from "/web/controls.js";
import { byId, clock, make, percent, put } from "/web/dom.js";
import { complain } from "/web/notice.js";

const LOOK_EVERY = 2000; // ms while the view is shown
const STATES = { starting: "starting", running: "running", waiting_for_client: "waiting for its client" };

/** watch(stream): shows one under Live. */
export class Streams {
  constructor(watch) {
    this.watch = watch;
    this.rows = new Map(); // id -> { element, update }
    this.isShown = false;
    this.timer = null;
  }

  show(isShown) {
    this.isShown = isShown;
    clearTimeout(this.timer);
    if (isShown) this.look();
  }

  async look() {
    clearTimeout(this.timer);
    try {
      const { streams, load, all } = await get("/v1/streams");
      this.list(streams, all);
      this.showLoad(load);
      put("streamsScope", all ? "All streams of this server." : "The streams of your key. A key with the scope admin sees all.");
    } catch (error) {
      complain(error);
    }
    if (this.isShown) this.timer = setTimeout(() => this.look(), LOOK_EVERY);
  }

  showLoad({ workers, limit, reserved, measured }) {
    byId("load").value = measured / workers;
    put("loadWords", `${percent(measured / workers)} of ${workers} ${workers === 1 ? "worker" : "workers"} busy; ${percent(reserved / workers)} promised to streams with a rate, of ${percent(limit / workers)} that may be.`);
  }

  list(streams, mayEnd) {
    const known = streams.filter((stream) => stream.id !== null);
    for (const [id, row] of this.rows) {
      if (known.some((stream) => stream.id === id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    for (const stream of known) {
      if (!this.rows.has(stream.id)) this.add(stream, mayEnd);
      this.rows.get(stream.id).update(stream);
    }
    byId("streamsEmpty").hidden = known.length > 0;
  }

  add({ id }, mayEnd) {
    const state = make("span", { className: "badge" });
    const source = make("span", { className: "dim" });
    const facts = make("div", {});
    const watch = make("button", { type: "button", "aria-label": `Watch stream ${id}` }, "Watch");
    const end = make("button", { type: "button", className: "quiet", "aria-label": `End stream ${id}` }, "End");
    const title = make("div", { className: "row-title" }, make("b", {}, id), state);
    const element = make("li", { className: "card row" }, title, source, facts, make("div", { className: "actions", hidden: !mayEnd }, watch, end));
    let last = null;
    watch.addEventListener("click", () => this.watch(last));
    end.addEventListener("click", () => this.end(id));
    const update = (stream) => {
      last = stream;
      put(state, STATES[stream.state]);
      state.dataset.state = stream.source?.state === "retrying" ? "failed" : stream.state;
      put(source, sourceWords(stream));
      watch.disabled = stream.state === "starting";
      if (stream.model) facts.replaceChildren(figures(describe(stream)));
    };
    this.rows.set(id, { element, update });
    byId("streamList").append(element);
  }

  async end(id) {
    try {
      await call(`/v1/streams/${encodeURIComponent(id)}`, { method: "DELETE" });
      byId("streamsTitle").focus();
    } catch (error) {
      complain(error);
    }
    await this.look();
  }
}

function sourceWords({ source }) {
  if (!source) return "Sent by its client.";
  const error = source.error && source.state !== "running" ? `: ${source.error}` : "";
  return `Pulled from ${source.url}, ${source.state}${error}`;
}

function describe(stream) {
  return [
    ["model", stream.model],
    ["precision", stream.precision],
    ["T, ρ", `${stream.period}, ${stream.threshold}`],
    ["results", stream.results],
    ["drops", stream.drops],
    ["rate", stream.fps ? `${stream.fps} promised` : "what is free"],
    ["runs for", clock(stream.seconds)],
  ];
}
