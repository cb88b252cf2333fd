// The models on offer, as their cards say.

import { figures } from "/web/controls.js";
import { byId, make, put } from "/web/dom.js";

const TASKS = { segmentation: "Segmentation", pose: "Poses", vos: "Objects" };

export function showModels(models, first) {
  byId("modelList").replaceChildren(...models.map((model) => card(model, model.name === first)));
  put("modelsWords", models.length ? "" : "The server offers no model.");
}

function card(model, isDefault) {
  const [height, width] = model.input_size;
  const facts = [
    ["network", model.architecture],
    ["input", `${width}×${height}`],
    ["runs on", model.serving?.backend ?? "not used yet"],
    ...Object.entries(model.metrics).filter(([, value]) => typeof value === "number").map(([name, value]) => [name.replaceAll("_", " "), value]),
  ];
  const parts = [
    make("div", { className: "row-title" }, make("h3", {}, model.title), make("span", { className: "badge" }, TASKS[model.task] ?? model.task), isDefault ? make("span", { className: "badge", "data-state": "done" }, "default") : null),
    make("p", {}, make("b", {}, "Licence: "), model.licence),
    figures(facts),
    model.classes.length ? classes(model) : null,
    more("Data and training", [["Data", model.data], ["Training", model.training], ["Measured on", model.metrics.measured_on], ["With", model.metrics.command], ["Not native since", model.serving?.reason]]),
    more("Precisions", [["Calibrated for", model.precisions.join(", ")]]),
  ];
  const made = make("li", { className: "card model" }, ...parts.filter(Boolean));
  made.dataset.name = model.name;
  return made;
}

function classes(model) {
  const items = model.classes.map((name, id) => {
    const swatch = make("i", {});
    swatch.style.background = `rgb(${model.palette[id].join(",")})`;
    return make("li", {}, swatch, name.replaceAll("_", " "));
  });
  return make("ul", { className: "legend", "aria-label": "Classes" }, ...items);
}

function more(title, pairs) {
  const said = pairs.filter(([, text]) => text);
  const texts = said.map(([name, text]) => make("p", {}, make("b", {}, `${name}: `), text));
  return make("details", {}, make("summary", {}, title), ...texts);
}
