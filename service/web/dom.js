// Small helpers for the page's elements. Data goes in as text, never as markup.

/** The element of an id. */
export const byId = (id) => document.getElementById(id);

/** Make an element: properties by name, `data-…` and `aria-…` as attributes, then children. */
export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Put text where it differs: screen readers and the browser's layout are left alone otherwise. */
export function put(target, text) {
  const element = typeof target === "string" ? byId(target) : target;
  const words = String(text);
  if (element.textContent !== words) element.textContent = words;
}

/** Save bytes under a name. */
export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A file name with the time in it. */
export function stamped(word, ending) {
  return `resq-${word}-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.${ending}`;
}

/** Work that is done at most every so many milliseconds, the last call always. */
export function throttled(every, work) {
  let timer = null;
  let next = null;
  return (...values) => {
    next = values;
    if (timer !== null) return;
    work(...next);
    next = null;
    timer = setTimeout(() => {
      timer = null;
      if (next) work(...next);
    }, every);
  };
}

/** A canvas as sharp as the screen, with the given size in CSS pixels; gives pen, width and height. */
export function sharp(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

/** A colour of the style sheet, as it is now. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

/** 1536 as "1.5 kB". */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, count)) / 3));
  return `${(count / 1000 ** step).toFixed(step ? 1 : 0)} ${units[step]}`;
}

/** 75 as "1:15". */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
