// What to do when something is refused: the server's or the browser's words come first, this after.

const FULL = "Stop a stream under Streams, or try again in a little while. RESQ_MAX_STREAMS sets how many places there are.";
const KEY = "Enter a key with the right scope. The operator makes one with: resq keys add NAME --scope stream";
const CODECS = "Try another clip, or choose JPEG under More options. The server's log says more.";

const BY_NAME = {
  over_capacity: "Ask for a lower rate under More options, take a longer period T, or leave the rate empty and take what is free.",
  forbidden_url: "The operator lists the hosts that may be pulled in RESQ_ALLOWED_HOSTS.",
  full: FULL,
  wrong_scope: KEY,
  no_key: KEY,
  bad_key: KEY,
  key_revoked: KEY,
  duplicate_id: "Choose another name, or end the stream of that name under Streams.",
  decoder_crashed: CODECS,
  decoder_timeout: CODECS,
  decoder_memory: CODECS,
  unreachable: "Is the server running, and is this device on its network? Then try again.",
  too_big: "Cut the clip, or ask the operator for more room (RESQ_MAX_CLIP_BYTES).",
  NotAllowedError: "Allow the camera in the browser's address bar, then choose Webcam again. Or take a clip.",
  NotFoundError: "Connect a camera and choose Webcam again. Or take a clip.",
  NotReadableError: "Close the other program that uses the camera, then choose Webcam again.",
  InsecureContext: "Browsers give cameras to pages of https:// and of http://localhost only. Open the console there, or take a clip.",
  BadFile: "Take an MP4 or WebM that this browser plays, or upload it under Clips: the server reads more formats.",
};

const BY_CODE = {
  1006: BY_NAME.unreachable,
  1008: "Reload the page: it may be older than the server.",
  1011: "The server's log says why. Start again.",
  1013: FULL,
  4400: "Change that option and start again.",
  4401: KEY,
  4403: KEY,
  4408: "Nothing was sent for too long, perhaps since this tab slept. Start again.",
  4409: "The stream goes on in another tab.",
  4413: "This device or its network is too slow for the results. Close other tabs and start again.",
  4429: "You opened many streams. Stop one under Streams, or wait a minute.",
};

/** One sentence of advice, or "". */
export function advice(name, code) {
  return BY_NAME[name] ?? BY_CODE[code] ?? "";
}

/** As a sentence: with a capital, and a full stop. */
export function sentence(text) {
  const whole = text.trim();
  return whole.charAt(0).toUpperCase() + whole.slice(1) + (/[.!?…]$/.test(whole) ? "" : ".");
}

const CAMERA = {
  NotAllowedError: "The browser was not allowed to use the camera",
  NotFoundError: "No camera was found",
  NotReadableError: "The camera is in use by another program",
  InsecureContext: "This browser gives no camera to pages without HTTPS",
};

/** What getUserMedia's error means. */
export const cameraWords = (error) => CAMERA[error.name] ?? `The camera does not start: ${error.message}`;
