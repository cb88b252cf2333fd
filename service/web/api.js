// The server's REST interface, with the API key of this tab.

const KEY = "resq.key"; // in this tab only, and gone with it

/** Someone has to enter a key: `needed(words)` is called. */
export const keys = {
  needed: (_words) => {},
  get: () => sessionStorage.getItem(KEY),
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** What the server refused: its own words, `status` (0 without any answer) and `name` of the error. */
export class Refusal extends Error {
  constructor(message, status, name) {
    super(message);
    this.status = status;
    this.name = name;
  }
}

export function authorized(headers = {}) {
  const key = keys.get();
  return key ? { ...headers, authorization: `Bearer ${key}` } : headers;
}

/** A request; the answer if it is a good one. Throws Refusal. */
export async function call(path, { method = "GET", json, signal } = {}) {
  const headers = authorized(json === undefined ? {} : { "content-type": "application/json" });
  const body = json === undefined ? undefined : JSON.stringify(json);
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("there is no connection to the server", 0, "unreachable");
  }
  if (answer.ok) return answer;
  throw refusal(answer.status, await answer.text());
}

/** A Refusal of a status and a body of problem details. */
export function refusal(status, text) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // something in front of the server answered
  }
  const made = new Refusal(problem.detail || `the server answered ${status}`, status, problem.code || "");
  if (status === 401) keys.needed(made.message);
  return made;
}

export const get = async (path, options) => (await call(path, options)).json();

/** Send a file or a form and say how far it is, which fetch cannot. Throws Refusal. */
export function upload(path, body, progress, signal) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorized())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status < 300) done(JSON.parse(request.responseText));
      else failed(refusal(request.status, request.responseText));
    };
    request.onerror = () => failed(new Refusal("the upload broke off", 0, "unreachable"));
    request.onabort = () => failed(new Refusal("the upload was stopped", 0, "stopped"));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

/** The objects of an answer of NDJSON, as they come. */
export async function* lines(path, signal) {
  const answer = await call(path, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}
