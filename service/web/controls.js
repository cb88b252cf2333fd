// The settings of a live stream: model, period, threshold, what is shown.

import { byId, make, percent, put, throttled } from "/web/dom.js";

const UPDATE_EVERY = 200; // ms between two changes of one stream
const SPARE = 4; // a slider reaches to so many times the model's own value

/** changed(changes): of stream.update; shown(): opacity, bits or layers are others. */
export class Controls {
  constructor(changed, shown) {
    this.models = [];
    this.touched = new Set();
    const send = throttled(UPDATE_EVERY, changed);
    for (const name of ["period", "threshold"]) {
      byId(name).addEventListener("input", () => {
        this.touched.add(name);
        this.print(name);
        send({ [name]: Number(byId(name).value) });
      });
    }
    byId("opacity").addEventListener("input", () => {
      put("opacityOut", percent(this.opacity));
      shown();
    });
    for (const input of document.querySelectorAll("input[name=bits], #byLayer")) {
      input.addEventListener("change", () => {
        shown();
        changed({ outputs: this.outputs });
      });
    }
    byId("model").addEventListener("change", () => this.choose());
  }

  /** What the server offers; the choice stays where it can. */
  offer(models, first) {
    const before = byId("model").value;
    this.models = models;
    byId("model").replaceChildren(...models.map((m) => new Option(`${m.title}`, m.name)));
    byId("model").value = models.some((m) => m.name === before) ? before : first;
    this.choose();
  }

  choose() {
    const { precisions = [], task = "" } = this.model ?? {};
    byId("precision").replaceChildren(...precisions.map((p, i) => new Option(i ? p : `${p} (default)`, i ? p : "")));
    const words = { segmentation: "gives every pixel a class", pose: "finds a person's joints", vos: "follows objects that you mark on the first frame" };
    put("modelHelp", this.model ? `This network ${words[task]}.` : "No model: the server offers none to this key.");
    this.touched.clear();
    for (const name of ["period", "threshold"]) put(`${name}Out`, "model’s own");
  }

  get model() {
    return this.models.find((model) => model.name === byId("model").value);
  }

  get opacity() {
    return Number(byId("opacity").value);
  }

  get bits() {
    return document.querySelector("input[name=bits]:checked").value;
  }

  get byLayer() {
    return byId("byLayer").checked;
  }

  get outputs() {
    return { mask: "zlib", bit_map: this.bits !== "off", layers: this.byLayer };
  }

  get wantsH264() {
    return byId("encoding").value === "auto";
  }

  /** For stream.start; what nobody chose is the model's own. */
  get options() {
    const value = (name) => (this.touched.has(name) ? Number(byId(name).value) : undefined);
    return {
      model: this.model?.name,
      precision: byId("precision").value || undefined,
      period: value("period"),
      threshold: value("threshold"),
      fps: Number(byId("fps").value) || undefined,
      outputs: this.outputs,
    };
  }

  print(name) {
    const value = Number(byId(name).value);
    put(`${name}Out`, name === "period" ? `${value} frames` : value.toFixed(3));
  }

  /** The sliders show what the stream runs with. */
  show({ period, threshold }) {
    for (const [name, value] of Object.entries({ period, threshold })) {
      const slider = byId(name);
      if (value > Number(slider.max)) slider.max = SPARE * value;
      slider.value = value;
      this.print(name);
    }
  }

  /** While a stream runs its model stays; one that the server pulls keeps all. */
  lock(isRunning, isPulled = false) {
    byId("fixed").disabled = isRunning;
    byId("more").disabled = isRunning;
    for (const name of ["period", "threshold"]) byId(name).disabled = isPulled;
    put("fixedHelp", isPulled ? "A pulled stream keeps what it was started with." : isRunning ? "Stop the stream to change these." : "");
  }
}

/** A list of labelled figures. */
export const figures = (pairs) => make("dl", { className: "figures" }, ...pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
