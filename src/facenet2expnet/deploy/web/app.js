/** The page: reads pictures, videos and the webcam, asks the engine, and shows what it answers. */

import { drawStage, drawThumbnail, drawTimeline, percent } from "./draw.js";
import { createEngine } from "./engine.js";
import { close, isVideo, openCamera, openPicture, openVideo, seek, sizeOf } from "./media.js";
import { Table } from "./table.js";

const LONGEST = 2048; // larger pictures are made smaller before they are analysed
const CAMERA_MS = 100; // the webcam is looked at no more often than this
const SPOKEN_MS = 4000; // a screen reader hears no more often than this
const CARDS = 12;
const VIDEO_SHARE = 32; // the smallest face of a video is this part of the longer side, as in `fn2en predict`
const CAMERA_SHARE = 12;

const $ = (id) => document.getElementById(id);
const MOST_LIVE = 3000;

let engine;
let table;
let frames = []; // {source, number, time, faces, note, file | video}
let shown = -1;
let onStage = null; // {drawable, size, faces}
let run = null; // AbortController of what is running
let videos = [];
let timeAt = () => 0;
let spoken = 0;

async function start() {
  try {
    engine = await createEngine();
  } catch (error) {
    state("");
    fail(error);
    return;
  }
  table = new Table($("table"), engine.classes);
  $("privacy").textContent = engine.privacy ?? "Nothing leaves this machine.";
  $("files").disabled = $("camera").disabled = false;
  state(`Ready. The model knows ${engine.classes.length} expressions: ${engine.classes.join(", ")}.`);
}

/** Start something, after stopping what is running; its errors are shown. */
async function begin(work) {
  run?.abort();
  const own = (run = new AbortController());
  clear();
  showStop(true);
  try {
    await work(own.signal);
  } catch (error) {
    if (!own.signal.aborted) fail(error);
  }
  if (run !== own) return;
  run = null;
  showStop(false);
  $("bar").hidden = true;
  state(frames.length ? summarise() : "");
  if (frames.length) speak(`${$("state").textContent} ${describe(frames.at(-1).faces)}`, true);
  if (frames.length > 1 && frames.every((frame) => frame.file || frame.video)) $("scrub").hidden = false;
}

/** Show the button that stops in place of the one that starts the webcam; the focus stays at that place. */
function showStop(running) {
  const [from, to] = running ? [$("camera"), $("stop")] : [$("stop"), $("camera")];
  const focused = document.activeElement === from;
  to.hidden = false;
  from.hidden = true;
  if (focused) to.focus();
}

function summarise() {
  const faces = frames.reduce((sum, frame) => sum + frame.faces.length, 0);
  const pictures = frames.filter((frame) => frame.file).length;
  const moving = frames.length - pictures;
  const parts = [pictures && count(pictures, "picture"), moving && count(moving, "frame")].filter(Boolean);
  return `Done: ${count(faces, "face")} in ${parts.join(" and ")}.`;
}

function clear() {
  for (const video of videos) close(video);
  [videos, frames, shown, onStage] = [[], [], -1, null];
  table.clear();
  $("errors").replaceChildren();
  $("results").hidden = $("scrub").hidden = $("over-time").hidden = true;
}

async function analyseFiles(files, signal) {
  $("bar").hidden = false;
  for (const [number, file] of files.entries()) {
    const show = (part) => {
      $("bar").value = (number + part) / files.length;
      state(files.length > 1 ? `${file.name} (${number + 1} of ${files.length})` : file.name);
    };
    show(0);
    try {
      await (isVideo(file) ? analyseVideo(file, signal, show) : analysePicture(file, signal));
    } catch (error) {
      if (signal.aborted) return;
      fail(error);
    }
  }
}

async function analysePicture(file, signal) {
  const picture = await openPicture(file);
  const faces = await analyse(picture, {});
  if (!signal.aborted) add({ source: file.name, number: 0, time: 0, faces, file }, picture);
}

async function analyseVideo(file, signal, show) {
  const video = await openVideo(file);
  videos.push(video);
  $("over-time").hidden = false;
  const every = Number($("every").value);
  const minFacePx = Math.max(...sizeOf(video)) / VIDEO_SHARE;
  for (let number = 0; number * every < video.duration && !signal.aborted; number++) {
    await seek(video, number * every);
    const faces = await analyse(video, { minFacePx, moving: true });
    if (signal.aborted) return;
    add({ source: file.name, number, time: number * every, faces, video }, video);
    show((number * every) / video.duration);
  }
}

async function analyseCamera(signal) {
  const video = await openCamera();
  videos.push(video);
  signal.addEventListener("abort", () => {
    if (onStage) onStage.drawable = copy(video); // the last frame stays
    close(video);
  });
  $("over-time").hidden = false;
  state("The webcam is on.");
  const paint = () => {
    if (signal.aborted) return;
    if (onStage) drawStage($("stage"), video, onStage.size, onStage.faces);
    requestAnimationFrame(paint);
  };
  requestAnimationFrame(paint);
  const minFacePx = Math.max(...sizeOf(video)) / CAMERA_SHARE;
  const began = performance.now();
  for (let number = 0; !signal.aborted; number++) {
    const now = performance.now();
    const faces = await analyse(video, { minFacePx, moving: true });
    if (signal.aborted) return;
    add({ source: "webcam", number, time: (now - began) / 1000, faces }, video);
    speak(describe(faces));
    await new Promise((done) => setTimeout(done, Math.max(0, CAMERA_MS - (performance.now() - now))));
  }
}

function copy(drawable, scale = 1) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = sizeOf(drawable).map((side) => Math.max(1, Math.round(side * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(drawable, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** Ask the engine about a picture or a frame; boxes are in its own pixels. */
async function analyse(drawable, hint) {
  const scale = Math.min(1, LONGEST / Math.max(...sizeOf(drawable)));
  const canvas = copy(drawable, scale);
  const faces = await engine.analyse(canvas, { ...hint, ...(hint.minFacePx && { minFacePx: hint.minFacePx * scale }) });
  return faces.map((face) => ({ ...face, box: face.box.map((value) => value / scale) }));
}

function add(frame, drawable) {
  frame.note = frame.faces.length ? "" : "no face found";
  frames.push(frame);
  if (!frame.file && !frame.video && frames.length > MOST_LIVE) frames.shift(); // of a webcam that runs for hours
  table.add(frame);
  shown = frames.length - 1;
  $("results").hidden = false;
  $("position").max = shown;
  showFrame(frame, drawable);
}

function showFrame(frame, drawable) {
  onStage = { drawable, size: sizeOf(drawable), faces: frame.faces };
  $("position").value = shown;
  const name = frame.file ? `${shown + 1} of ${frames.length}` : `${frame.time.toFixed(1)} s`;
  $("shown").textContent = name;
  $("position").setAttribute("aria-valuetext", `${frame.source}, ${name}`);
  $("stage").setAttribute("aria-label", `${frame.source}: ${describe(frame.faces)}`);
  redraw();
  showCards(frame.faces, drawable);
}

function redraw() {
  if (!onStage) return;
  drawStage($("stage"), onStage.drawable, onStage.size, onStage.faces);
  if ($("over-time").hidden) return;
  const source = frames[shown].source;
  const own = frames.filter((frame) => frame.source === source && !frame.file);
  const points = own.map(({ time, faces }) => ({ time, probabilities: faces[0]?.probabilities ?? null }));
  const end = own[0]?.video?.duration ?? points.at(-1)?.time ?? 0;
  timeAt = drawTimeline($("timeline"), engine.classes, points, end, frames[shown].file ? null : frames[shown].time);
  $("timeline").setAttribute("aria-label", describeTime(points));
}

/** Show an earlier picture or frame again. */
async function showAgain(index) {
  if (run || !frames[index]) return;
  shown = index;
  const frame = frames[index];
  if (frame.video) await seek(frame.video, frame.time);
  const drawable = frame.video ?? (await openPicture(frame.file));
  if (shown === index) showFrame(frame, drawable);
}

function showCards(faces, drawable) {
  const cards = faces.slice(0, CARDS).map((face, number) => {
    const card = document.createElement("li");
    card.innerHTML = `<div class="face"><canvas width="104" height="104" aria-hidden="true"></canvas>
      <div><strong></strong><span></span></div></div><ul class="bars"></ul>`;
    const best = Math.max(...face.probabilities);
    card.querySelector("strong").textContent = `${number + 1} ${face.label} ${percent(best)}`;
    card.querySelector(".face span").textContent = face.score === null ? "" : `detection score ${face.score.toFixed(2)}`;
    drawThumbnail(card.querySelector("canvas"), drawable, face.box);
    card.querySelector(".bars").append(...engine.classes.map((name, row) => bar(name, face.probabilities[row], name === face.label)));
    return card;
  });
  if (faces.length > CARDS) cards.push(note(`and ${faces.length - CARDS} more, in the table`));
  if (!faces.length) cards.push(note("No face was found."));
  $("faces").replaceChildren(...cards);
}

function bar(name, probability, best) {
  const row = document.createElement("li");
  row.innerHTML = `<span></span><i aria-hidden="true"><b></b></i><span></span>`;
  row.classList.toggle("best", best);
  row.firstElementChild.textContent = name;
  row.lastElementChild.textContent = percent(probability);
  row.querySelector("b").style.width = `${100 * probability}%`;
  return row;
}

function note(text) {
  const item = document.createElement("li");
  item.className = "none";
  item.textContent = text;
  return item;
}

function describe(faces) {
  const parts = faces.slice(0, 5).map((face) => `${face.label} ${percent(Math.max(...face.probabilities))}`);
  if (!parts.length) return "No face was found.";
  return `${count(faces.length, "face")}: ${parts.join(", ")}${faces.length > 5 ? " and others" : ""}.`;
}

function describeTime(points) {
  const seen = points.filter((point) => point.probabilities);
  if (!seen.length) return "No face yet.";
  const means = engine.classes.map((name, row) => {
    const mean = seen.reduce((sum, point) => sum + point.probabilities[row], 0) / seen.length;
    return { name, mean };
  });
  means.sort((one, other) => other.mean - one.mean);
  return `On average ${means.slice(0, 3).map(({ name, mean }) => `${name} ${percent(mean)}`).join(", ")}.`;
}

function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

function state(text) {
  $("state").textContent = text;
}

/** Tell a screen reader something, unless it heard something just now. */
function speak(text, always = false) {
  if (!always && (performance.now() - spoken < SPOKEN_MS || $("announce").textContent === text)) return;
  spoken = performance.now();
  $("announce").textContent = text;
}

function fail(error) {
  const line = document.createElement("p");
  line.textContent = error.message;
  $("errors").append(line);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table.csv()], { type: "text/csv" }));
  link.download = "faces.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function nearest(time) {
  const source = frames[shown]?.source;
  let best = -1;
  frames.forEach((frame, index) => {
    if (frame.source !== source || !frame.video) return;
    if (best < 0 || Math.abs(frame.time - time) < Math.abs(frames[best].time - time)) best = index;
  });
  return best;
}

$("files").addEventListener("change", () => {
  const files = [...$("files").files];
  $("files").value = ""; // so that the same file can be chosen again
  if (files.length) begin((signal) => analyseFiles(files, signal));
});
$("camera").addEventListener("click", () => begin(analyseCamera));
$("stop").addEventListener("click", () => run?.abort());
$("save").addEventListener("click", save);
$("position").addEventListener("input", () => showAgain(Number($("position").value)));
$("timeline").addEventListener("click", (event) => showAgain(nearest(timeAt(event.offsetX))));
$("input").addEventListener("submit", (event) => event.preventDefault());
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    const files = name === "drop" ? [...event.dataTransfer.files] : [];
    if (files.length && engine) begin((signal) => analyseFiles(files, signal));
  });
}
new ResizeObserver(redraw).observe($("results"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
start();
