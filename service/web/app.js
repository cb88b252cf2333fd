// The console: its views, its key, and the models that all views offer.

import { Clips } from "/web/clips.js";
import { byId } from "/web/dom.js";
import { Live } from "/web/live.js";
import { showModels } from "/web/models.js";
import { complain, say, watchKeyForm } from "/web/notice.js";
import { Streams } from "/web/streams.js";

const VIEWS = ["live", "clips", "streams", "models"];
const IDLE = "Choose a source.";
const live = new Live();
const clips = new Clips();
const streams = new Streams((stream) => watch(stream));
let models = [];

function showView(moveFocus) {
  const wanted = location.hash.slice(1);
  const name = VIEWS.includes(wanted) ? wanted : "live";
  for (const view of VIEWS) {
    byId(view).hidden = view !== name;
    const link = document.querySelector(`nav a[href="#${view}"]`);
    if (view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${byId(`${name}Title`).textContent} · ResQ`;
  clips.show(name === "clips");
  streams.show(name === "streams");
  if (byId("notice").dataset.kind === "idle") say(name === "live" ? IDLE : "");
  if (moveFocus) byId(`${name}Title`).focus();
}

async function loadModels() {
  try {
    const offer = await live.refresh();
    models = offer.models;
    clips.offer(models, offer.default);
    showModels(models, offer.default);
    if (live.state === "idle") say(byId("live").hidden ? "" : IDLE);
  } catch (error) {
    complain(error);
  }
}

function watch(stream) {
  if (live.state !== "idle") {
    complain({ message: "a stream runs under Live; stop it first, then watch another" });
    return;
  }
  location.hash = "#live";
  live.watch(stream.id, models.find((model) => model.name === stream.model));
}

watchKeyForm(() => {
  loadModels();
  showView(false);
});
window.addEventListener("hashchange", () => showView(true));
showView(false);
loadModels();
