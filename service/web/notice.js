// The line that says what is going on, and what to do where something is wrong.

import { keys } from "/web/api.js";
import { byId, put } from "/web/dom.js";
import { advice, sentence } from "/web/words.js";

const KEY_NAMES = ["no_key", "bad_key", "wrong_scope", "key_revoked"];
const KEY_CODES = [4401, 4403];

function show(kind, text, help) {
  byId("notice").dataset.kind = kind;
  put("status", kind === "bad" ? "" : text);
  put("alert", kind === "bad" ? text : "");
  put("advice", help);
}

/** All is well: `text` is read out when there is time. kind: "idle", "busy", "good" or "warn". */
export function say(text, kind = "idle", help = "") {
  show(kind, text, help);
}

/** Something is wrong: read out at once. error: {message, name, code}. */
export function complain(error) {
  show("bad", sentence(error.message), advice(error.name, error.code));
  if (KEY_NAMES.includes(error.name) || KEY_CODES.includes(error.code)) askForKey();
}

/** Show the form for the API key. */
export function askForKey() {
  const form = byId("keyForm");
  if (!form.hidden) return;
  form.hidden = false;
  byId("key").focus();
}

/** Let the form be used; `changed` is called with a new key in place. */
export function watchKeyForm(changed) {
  keys.needed = (words) => complain({ message: words, name: "no_key" });
  byId("keyButton").addEventListener("click", () => {
    byId("keyForm").hidden = !byId("keyForm").hidden;
    if (!byId("keyForm").hidden) byId("key").focus();
  });
  byId("keyForm").addEventListener("submit", (event) => {
    event.preventDefault();
    keys.set(byId("key").value.trim());
    byId("key").value = "";
    byId("keyForm").hidden = true;
    byId("keyButton").focus();
    say("The key is kept for this tab.");
    changed();
  });
}
