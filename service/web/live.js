// The live view: a source is chosen, a stream runs, and someone stops it.

import { get, keys } from "/web/api.js";
import { Controls } from "/web/controls.js";
import { Displays } from "/web/displays.js";
import { byId, download, put, stamped } from "/web/dom.js";
import { complain, say } from "/web/notice.js";
import { PulledSession, pull } from "/web/pulled.js";
import { Recorder, snapshot } from "/web/recorder.js";
import { Session } from "/web/session.js";
import { Source } from "/web/source.js";
import { boxAround, describe, Marker } from "/web/vos.js";

export class Live {
  constructor() {
    this.displays = new Displays();
    this.marker = new Marker();
    this.controls = new Controls((changes) => this.session?.update?.(changes), () => this.applyDisplay());
    this.recorder = new Recorder(byId("picture"), byId("record"));
    this.video = byId("video");
    this.usesH264 = true;
    this.applyDisplay();
    this.set("idle");
    byId("camera").addEventListener("click", () => this.begin(() => Source.camera(this.video)));
    byId("file").addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (file) this.begin(() => Source.file(this.video, file));
      event.target.value = "";
    });
    byId("urlForm").addEventListener("submit", (event) => {
      event.preventDefault();
      this.beginPull();
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("pause").addEventListener("click", () => this.togglePause());
    byId("snapshot").addEventListener("click", () => snapshot(byId("picture")));
    byId("save").addEventListener("click", () => download(this.displays.results(), stamped("results", "ndjson")));
    byId("markMore").addEventListener("click", () => this.markMore());
  }

  applyDisplay() {
    const { controls, displays } = this;
    displays.bits = controls.bits;
    displays.overlay.opacity = controls.opacity;
    displays.overlay.redraw();
    byId("screens").dataset.bits = controls.bits;
    byId("bitsScreen").hidden = controls.bits !== "beside";
    byId("bitsKey").hidden = controls.bits === "off" && !controls.byLayer;
    byId("layers").hidden = !controls.byLayer;
  }

  /** idle, starting, marking, running, waiting or stopping. */
  set(state, isPulled = false) {
    this.state = state;
    const busy = state !== "idle";
    const running = state === "running" || state === "waiting";
    byId("stage").dataset.state = state;
    byId("chooser").hidden = busy;
    byId("stop").disabled = !busy;
    for (const id of ["pause", "record"]) byId(id).disabled = !running || (isPulled && id === "pause");
    for (const id of ["snapshot", "save"]) byId(id).disabled = !this.displays.log.length;
    this.controls.lock(busy, busy && isPulled);
    const words = running && !isPulled ? { vos: "Add objects", pose: "Choose the person" }[this.controls.model?.task] : null;
    byId("markMore").hidden = !words;
    if (words) put(byId("markMore").querySelector("span"), words);
    this.showPause(false);
    if (busy && document.activeElement === document.body) byId("stop").focus();
  }

  async begin(opening) {
    if (this.state !== "idle") return;
    this.set("starting");
    say("Opening the source …", "busy");
    try {
      this.source = await opening();
    } catch (error) {
      this.end();
      complain(error);
      return;
    }
    const options = this.controls.options;
    let first = null;
    if (this.controls.model?.task === "vos") {
      first = this.source.grab();
      const marks = await this.mark(first, { firstId: 1, one: false, words: "Mark what to follow, then choose Follow." });
      if (!marks) return this.end("Nothing was marked. Choose a source.");
      options.vos = { objects: describe(marks.ids, marks.width, marks.height, marks.found) };
      this.lastId = Math.max(...marks.found);
      this.set("starting");
    }
    say(`${this.source.name}: waiting for the server …`, "busy");
    this.session = new Session(this.source, keys.get(), options, this.displays, this.events());
    await this.session.start(this.usesH264 && this.controls.wantsH264, first);
    return undefined;
  }

  events() {
    const name = this.source.name;
    const running = (words, kind) => (started) => {
      this.controls.show(started);
      this.set("running");
      say(`${name}: ${started.model} at ${started.precision}${words}`, kind);
    };
    return {
      started: (started, encoder) => {
        running("", "good")(started);
        put("sending", `Sending ${encoder.words}`);
        byId("snapshot").disabled = byId("save").disabled = false;
      },
      resumed: running(", connected again. The stream goes on where it was.", "good"),
      restarted: running(", connected again. The server had restarted: this is a new stream.", "warn"),
      waiting: (why) => {
        this.set("waiting");
        const words = why === "shutdown" ? "The server shuts down." : "The connection broke.";
        say(words, "warn", "The console tries to come back by itself for a minute; there is nothing to do.");
      },
      problem: (problem) => {
        if (problem.fatal) this.end();
        complain(problem);
      },
      ended: (ended) => this.ended(ended),
      encoderFailed: () => {
        this.usesH264 = false;
        this.session.close();
        this.end();
        complain({ message: "The H.264 encoder of this browser failed; start again, then JPEG is sent" });
      },
    };
  }

  ended(ended) {
    this.end(`Finished: ${Displays.summary(ended)}.`);
    if (ended.reason === "key_revoked") complain({ message: "the API key was revoked", name: "key_revoked" });
    if (ended.reason === "deleted") say("An operator ended the stream.", "warn");
  }

  /** Nothing runs any more. */
  end(words) {
    const focused = byId("stage").contains(document.activeElement);
    this.recorder.stop();
    this.source?.close();
    this.session = this.source = null;
    this.set("idle");
    put("sending", "");
    put("rate", "");
    if (words) say(words);
    if (focused) byId("camera").focus();
  }

  async stop() {
    if (this.marker.done) return this.marker.finish(false);
    const { session } = this;
    if (this.state === "stopping" || !session?.canEnd) {
      session?.close();
      return this.end("Stopped.");
    }
    this.set("stopping");
    say("Waiting for the last results …", "busy");
    try {
      await session.stop();
    } catch (error) {
      session.close();
      this.end();
      complain(error);
    }
    return undefined;
  }

  togglePause() {
    const pausing = !this.session.paused;
    if (pausing) this.session.pause();
    else this.session.play();
    this.showPause(pausing);
  }

  showPause(isPaused) {
    byId("pause").setAttribute("aria-pressed", String(isPaused));
    put(byId("pause").querySelector("span"), isPaused ? "Go on" : "Pause");
  }

  async mark(picture, wishes) {
    this.set("marking");
    say(wishes.one ? "Waiting for a box." : "Waiting for marks: drag a box around an object, or paint it with the brush.", "busy");
    const marks = await this.marker.begin(picture, { palette: this.vosPalette(), ...wishes });
    return marks;
  }

  vosPalette() {
    return this.displays.overlay.task === "vos" ? this.displays.overlay.palette : MARKS;
  }

  /** More objects for a VOS stream, or the person of a pose stream, marked on the frame of now. */
  async markMore() {
    const { session } = this;
    const isPose = this.controls.model.task === "pose";
    session.pause();
    const picture = this.source.grab();
    const words = isPose ? "Draw a box around the person." : "Mark the new objects, then choose Follow.";
    const marks = await this.mark(picture, { firstId: isPose ? 1 : this.lastId + 1, one: isPose, words });
    if (this.session !== session) return; // it ended meanwhile
    this.set("running");
    say(marks ? "Following." : "Nothing was marked; the stream goes on.", "good");
    if (marks && isPose) session.update({ box: boxAround(marks.ids, marks.width, marks.found[0]) });
    else if (marks) {
      session.update({ add_objects: describe(marks.ids, marks.width, marks.height, marks.found) });
      this.lastId = Math.max(...marks.found);
    }
    session.play(marks ? picture : null);
  }

  async beginPull() {
    if (this.state !== "idle") return;
    this.set("starting", true);
    say("Asking the server to pull the stream …", "busy");
    try {
      const { id } = await pull(byId("url").value.trim(), this.controls.options, byId("urlIsFile").checked);
      this.watch(id, this.controls.model, true);
    } catch (error) {
      this.end();
      complain(error);
    }
  }

  /** Follow a stream of the server by its id and its model's card; Stop ends it if it is one's own. */
  watch(id, card, isOwn = false) {
    this.session = new PulledSession(id, card, isOwn, this.displays, {
      state: (words, isWell) => say(`Stream ${id}: ${words}`, isWell ? "good" : "warn"),
      ended: (words) => this.end(words),
      problem: (error) => {
        this.end();
        complain(error);
      },
    });
    this.set("running", true);
    put("sending", "The server pulls this stream and keeps its pictures to itself: what it found is drawn without them.");
  }

  /** Ask what the server offers: {default, models}. Throws Refusal. */
  async refresh() {
    const offer = await get("/v1/models");
    if (this.state === "idle") this.controls.offer(offer.models, offer.default);
    return offer;
  }
}

const MARKS = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128], [192, 192, 192]];
