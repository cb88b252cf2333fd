// The page: a video source, the stream, and what is drawn of its results.

import { Chart } from "/web/chart.js";
import { ResqStream } from "/web/resq.js";

const MAX_WIDTH = 640;
const QUALITY = 0.8;
const IN_FLIGHT = 2; // one with the server, one waiting there; more would only be dropped
const MIN_SCORE = 0.2; // of a keypoint that is drawn
const STOPS = [[26, 30, 44], [38, 148, 152], [250, 226, 110]];
const KEY = "resq.key"; // in this tab only, and gone with it
const REFUSED = [4401, 4403];
const element = (id) => document.getElementById(id);
const video = element("video");
const chart = new Chart(element("chart"));
const sent = new Map(); // seq -> { picture, time }
let stream = null;
let palette = [];
let skeleton = [];
let background = -1; // the class id that stays as the picture is
let drops = 0;
let times = [];
let run = 0; // the current source; what belongs to an older one stops

function say(text, bad = false) {
  element("status").textContent = text;
  element("status").classList.toggle("bad", bad);
}

function stop(text) {
  run += 1;
  if (stream) stream.end();
  stream = null;
  video.pause();
  if (video.srcObject) video.srcObject.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  element("stop").disabled = true;
  sent.clear();
  if (text) say(text);
}

async function openCamera() {
  stop();
  if (!navigator.mediaDevices) {
    say("This browser gives no camera to pages without HTTPS. Open the page as http://localhost, or choose a clip.", true);
    return;
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch (error) {
    const words = {
      NotAllowedError: "The browser was not allowed to use the camera. Allow it beside the address, or choose a clip.",
      NotFoundError: "No camera was found. Choose a clip instead.",
    };
    say(words[error.name] || `The camera does not start: ${error.message}`, true);
    return;
  }
  video.loop = false;
  await start("the webcam");
}

async function openFile(file) {
  stop();
  video.src = URL.createObjectURL(file);
  video.loop = false;
  await start(file.name);
}

async function start(name) {
  try {
    await video.play();
  } catch (error) {
    say(`${name} does not play in this browser: ${error.message}`, true);
    return;
  }
  const isClip = !video.srcObject;
  if (isClip) {
    // it waits for the server, which may have to load the model first
    video.pause();
    video.currentTime = 0;
  }
  say(`${name}: waiting for the server`);
  chart.clear();
  drops = 0;
  times = [];
  const mine = run;
  const options = {
    model: element("model").value || undefined,
    period: Number(element("period").value),
    threshold: Number(element("threshold").value),
    outputs: { mask: "zlib", bit_map: true, layers: false },
  };
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/streams`;
  stream = new ResqStream(url, sessionStorage.getItem(KEY), options, {
    started: (message) => {
      palette = message.palette;
      skeleton = message.skeleton;
      background = message.task === "vos" ? 0 : -1;
      legend(message.task === "pose" ? message.joints : message.classes);
      say(`${name}: ${message.model} at ${message.precision}`);
      element("stop").disabled = false;
      if (isClip) video.play();
      feed(mine);
    },
    resumed: (message) => {
      if (mine !== run) return;
      sent.clear();
      say(`${name}: ${message.model} at ${message.precision}, connected again`);
    },
    result: (meta, blobs) => mine === run && show(meta, blobs),
    drop: (message) => {
      drops += 1;
      sent.delete(message.seq);
      element("drops").textContent = drops;
    },
    problem: (text, fatal, code) => {
      if (mine !== run) return;
      if (fatal) stop();
      say(text, true);
      if (REFUSED.includes(code)) askForKey();
    },
    ended: (message) => {
      if (mine !== run) return;
      stop(`Finished: ${message.results} of ${message.received} frames, saving ${percent(message.saving)}.`);
      if (message.reason === "key_revoked") {
        say("The API key was revoked.", true);
        askForKey();
      }
    },
  });
}

// One JPEG at a time while there are credits.
function feed(mine) {
  const next = async () => {
    if (mine !== run || !stream) return;
    if (video.ended) {
      stream.end();
      return;
    }
    if (stream.ready && video.videoWidth && sent.size < IN_FLIGHT) await send(mine);
    requestAnimationFrame(next);
  };
  next();
}

async function send(mine) {
  const factor = Math.min(1, MAX_WIDTH / video.videoWidth);
  const picture = document.createElement("canvas");
  picture.width = Math.round(video.videoWidth * factor);
  picture.height = Math.round(video.videoHeight * factor);
  picture.getContext("2d").drawImage(video, 0, 0, picture.width, picture.height);
  const blob = await new Promise((done) => picture.toBlob(done, "image/jpeg", QUALITY));
  const bytes = await blob.arrayBuffer();
  if (mine !== run || !stream || !stream.ready) return;
  const seq = stream.sendImage(bytes, performance.now() * 1000);
  sent.set(seq, { picture, time: performance.now() });
}

function show(meta, blobs) {
  const origin = sent.get(meta.seq);
  sent.delete(meta.seq);
  if (!origin) return;
  drawPicture(origin.picture, blobs.mask, meta);
  drawBits(blobs.bit_map, origin.picture);
  chart.add(meta.bops.saving, meta.is_anchor);
  const now = performance.now();
  times = [...times.filter((time) => now - time < 2000), now];
  element("saving").textContent = percent(meta.bops.saving);
  element("meanBits").textContent = meta.mean_bits.toFixed(2);
  element("active").textContent = percent(meta.active_fraction);
  element("latency").textContent = Math.round(now - origin.time);
  element("drops").textContent = drops;
  if (times.length > 1) {
    element("fps").textContent = ((1000 * (times.length - 1)) / (now - times[0])).toFixed(1);
  }
}

function drawPicture(picture, mask, meta) {
  const canvas = element("picture");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  if (mask) drawMask(pen, canvas, mask);
  if (meta.keypoints) drawSkeleton(pen, meta.keypoints);
}

function drawMask(pen, canvas, mask) {
  const [height, width] = mask.shape;
  const layer = new ImageData(width, height);
  const alpha = Math.round(255 * Number(element("opacity").value));
  mask.values.forEach((id, i) => {
    const colour = palette[id];
    if (colour && id !== background) layer.data.set([...colour, alpha], 4 * i);
  });
  paint(pen, layer, canvas, true);
}

function drawSkeleton(pen, keypoints) {
  const seen = (i) => keypoints[i][2] > MIN_SCORE;
  pen.lineWidth = 3;
  pen.lineCap = "round";
  for (const [a, b] of skeleton) {
    if (!seen(a) || !seen(b)) continue;
    pen.strokeStyle = `rgb(${palette[b].join(",")})`;
    pen.beginPath();
    pen.moveTo(keypoints[a][0], keypoints[a][1]);
    pen.lineTo(keypoints[b][0], keypoints[b][1]);
    pen.stroke();
  }
  keypoints.forEach(([x, y], i) => {
    if (!seen(i)) return;
    pen.fillStyle = `rgb(${palette[i].join(",")})`;
    pen.beginPath();
    pen.arc(x, y, 4, 0, 7);
    pen.fill();
  });
}

function drawBits(bits, picture) {
  const canvas = element("bits");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const [height, width] = bits.shape;
  const layer = new ImageData(width, height);
  bits.values.forEach((value, i) => {
    const place = value / 30 / 4;
    const low = Math.min(Math.floor(place), 1);
    const mix = STOPS[low].map((from, c) => from + (STOPS[low + 1][c] - from) * (place - low));
    layer.data.set([...mix, 255], 4 * i);
  });
  paint(canvas.getContext("2d"), layer, canvas, false);
}

function paint(pen, layer, canvas, smooth) {
  const small = document.createElement("canvas");
  small.width = layer.width;
  small.height = layer.height;
  small.getContext("2d").putImageData(layer, 0, 0);
  pen.imageSmoothingEnabled = smooth;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function legend(classes) {
  element("legend").replaceChildren(
    ...classes.map((name, i) => {
      const item = document.createElement("li");
      const swatch = document.createElement("canvas");
      swatch.width = swatch.height = 12;
      const pen = swatch.getContext("2d");
      pen.fillStyle = `rgb(${palette[i].join(",")})`;
      pen.fillRect(0, 0, 12, 12);
      item.append(swatch, name.replaceAll("_", " "));
      return item;
    }),
  );
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function control(id, format, change) {
  const input = element(id);
  const print = () => (element(`${id}Out`).textContent = format(Number(input.value)));
  input.addEventListener("input", print);
  if (change) input.addEventListener("change", () => stream && stream.update(change(Number(input.value))));
  print();
}

function askForKey() {
  element("keyForm").hidden = false;
  element("key").focus();
}

function useKey(event) {
  event.preventDefault();
  sessionStorage.setItem(KEY, element("key").value.trim());
  element("key").value = "";
  element("keyForm").hidden = true;
  say("Choose the webcam or a clip.");
  listModels();
}

async function listModels() {
  const key = sessionStorage.getItem(KEY);
  const answer = await fetch("/v1/models", { headers: key ? { authorization: `Bearer ${key}` } : {} });
  if (!answer.ok) {
    const { status, detail } = await answer.json();
    say(detail, true);
    if (status === 401) askForKey();
    return;
  }
  const { default: first, models } = await answer.json();
  const usable = models.filter((model) => model.task !== "vos"); // those need masks to begin with
  element("model").replaceChildren(...usable.map((m) => new Option(m.title, m.name, false, m.name === first)));
}

listModels();
control("period", String, (period) => ({ period }));
control("threshold", (value) => value.toFixed(2), (threshold) => ({ threshold }));
control("opacity", (value) => `${Math.round(100 * value)} %`);
element("keyForm").addEventListener("submit", useKey);
element("camera").addEventListener("click", openCamera);
element("stop").addEventListener("click", () => stop("Stopped."));
element("file").addEventListener("change", (event) => {
  if (event.target.files[0]) openFile(event.target.files[0]);
  event.target.value = "";
});
