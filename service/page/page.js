/** The controls of the page. */

import { hasKey, persistently, Problem, request, useKey } from "./api.js";
import { listCameras, openCamera } from "./camera.js";
import { Chart } from "./chart.js";
import { FORMS } from "./copying.js";
import { stream } from "./stream.js";
import * as view from "./view.js";

const element = (id) => document.getElementById(id);
const video = element("video"), cameras = element("cameras"), slider = element("min");
const chart = new Chart(element("chart"), element("stages"), element("rate"));

let skeleton;
let shown; // the frame with its persons
let source = { name: "photo.jpg", type: "image/jpeg" }; // the file named in copied code
let job = new AbortController(); // the current job; `abort` ends it
let work = prepare; // repeated when there is a key
let counts;
let askAgain = () => {};

const least = () => Number(slider.value);

/** Replace the current job by `next`. */
async function begin(next) {
  job.abort();
  const mine = (job = new AbortController());
  work = next;
  view.say();
  element("access").hidden = true;
  try {
    await next(mine);
  } catch (error) {
    if (mine === job) explain(error);
  }
  if (mine !== job) return;
  view.waiting(false);
  running(false);
}

function explain(error) {
  if (!shown) view.showNothing();
  if (error.code === "unauthenticated") {
    view.say(hasKey() ? "The service does not know this key." : "This service requires a key.");
    element("access").hidden = false;
    element("key").focus();
    return;
  }
  view.say(error.name === "AbortError" ? "" : error.message);
  if (error.name !== "AbortError" && !(error instanceof Problem)) throw error;
}

/** Retries while the service is unreachable or full, and shows it. */
function patiently(mine, attempt) {
  return persistently(attempt, { signal: mine.signal, failed: (error, seconds) => failed(mine, error, seconds) });
}

function failed(mine, error, seconds) {
  if (mine !== job || mine.signal.aborted) return;
  const what = error.code === "overloaded" ? "the service is busy" : error.message;
  view.say(`${what}: trying again in ${seconds} s`);
}

/** Checks without an image whether the service is reachable and requires a key. */
async function prepare(mine) {
  skeleton = await patiently(mine, () => request("v1/skeleton", { signal: mine.signal }));
  view.say();
}

async function findInPhoto(file, mine) {
  forget();
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Problem("not_an_image", `${file.name} is not an image that this browser can read.`);
  }
  if (!skeleton) await prepare(mine);
  const frame = { picture, width: picture.width, height: picture.height, name: file.name };
  view.showPicture(frame, skeleton);
  view.waiting(true);
  const type = file.type.startsWith("image/") ? file.type : "image/jpeg";
  source = { name: file.name, type };
  const asked = least();
  let begun;
  const answer = await patiently(mine, () => {
    begun = performance.now();
    const headers = { "content-type": type };
    return request(address(asked), { method: "POST", body: file, headers, signal: mine.signal });
  });
  view.say();
  chart.add(answer.results[0].timings, (performance.now() - begun) / 1000);
  show({ ...frame, ...answer.results[0] });
  askAgain = (wanted) => wanted < asked && begin((next) => findInPhoto(file, next));
}

function address(minScore) {
  return `v1/poses?min_score=${minScore}`;
}

function show(frame) {
  shown = frame;
  view.showPersons(frame, wantedPersons(), skeleton);
  copyable(true);
}

/** The previous answer. */
function forget() {
  shown = undefined;
  askAgain = () => {};
  chart.clear();
  element("counts").textContent = "";
  copyable(false);
}

function copyable(yes) {
  for (const form of ["json", "coco"]) document.querySelector(`[data-form=${form}]`).disabled = !yes;
}

function wantedPersons() {
  return shown.persons.filter(({ score }) => score >= least());
}

async function findInCamera(mine) {
  view.waiting(true);
  const media = await openCamera(cameras.value);
  const [track] = media.getTracks();
  let gone = false;
  track.addEventListener("ended", () => {
    gone = true;
    mine.abort();
  });
  try {
    await offerCameras(track.getSettings().deviceId);
    await findInVideo({ srcObject: media }, mine);
  } finally {
    track.stop();
  }
  if (gone) throw new Problem("camera_gone", "The camera was disconnected.");
}

async function offerCameras(used) {
  const found = await listCameras();
  cameras.replaceChildren(
    ...found.map(({ label, deviceId }) => new Option(label, deviceId, false, deviceId === used)),
  );
  cameras.hidden = found.length < 2;
}

async function findInFilm(file, mine) {
  const src = URL.createObjectURL(file);
  try {
    await findInVideo({ srcObject: null, src }, mine);
  } finally {
    URL.revokeObjectURL(src);
  }
}

/** Streams until the video ends or the job is aborted; a change of `least` starts another stream. */
async function findInVideo(media, mine) {
  forget();
  if (!skeleton) await prepare(mine);
  Object.assign(video, media);
  try {
    await video.play();
  } catch {
    throw new Problem("not_a_video", "This browser cannot play the video.");
  }
  if (mine.signal.aborted) return;
  view.showVideo();
  running(true);
  counts = { poses: 0, dropped: 0, error: 0, lost: 0 };
  try {
    while (!mine.signal.aborted && !video.ended) await streamOnce(mine);
  } finally {
    if (mine === job) view.hideVideo();
    if (mine === job) video.pause();
  }
}

async function streamOnce(mine) {
  const asked = least();
  const over = new AbortController();
  askAgain = (wanted) => wanted < asked && over.abort();
  await stream(video, { min_score: asked, tracking: true, smoothing: true }, {
    signal: AbortSignal.any([mine.signal, over.signal]),
    answered: (...answer) => mine === job && answered(...answer),
    lost: (frames) => mine === job && count("lost", frames),
    failed: (error, seconds) => {
      if (mine === job) view.showVideo();
      failed(mine, error, seconds);
    },
  });
}

function answered(picture, answer, seconds, wait) {
  view.waiting(false);
  count(["poses", "dropped", "error"].find((kind) => answer[kind]), 1);
  view.say(answer.error?.message);
  if (!answer.poses) return;
  chart.add(answer.poses.timings, seconds, wait);
  show({ picture, live: true, ...answer.poses });
}

function count(what, frames) {
  counts[what] += frames;
  const { poses, dropped, error, lost } = counts;
  element("counts").textContent =
    `${poses} answered · ${dropped} dropped · ${error} failed · ${lost} lost`;
}

function running(yes) {
  element("live").textContent = yes ? "Stop" : "Start camera";
  element("live").dataset.running = yes;
}

function take(file) {
  if (!file) return;
  const find = file.type.startsWith("video/") ? findInFilm : findInPhoto;
  begin((mine) => find(file, mine));
}

async function copy(form) {
  const url = new URL(address(least()), document.baseURI).href;
  const text = FORMS[form](shown && { ...shown, persons: wantedPersons() }, source, url, hasKey());
  const area = element("text");
  try {
    await navigator.clipboard.writeText(text);
    area.hidden = true;
    element("copied").textContent = "Copied.";
  } catch {
    area.hidden = false;
    area.value = text;
    area.select();
    element("copied").textContent = "The browser does not allow copying. Copy the text from here.";
  }
}

element("file").addEventListener("change", ({ target }) => {
  take(target.files[0]);
  target.value = ""; // allows choosing the same file again
});
element("live").addEventListener("click", () => {
  if (element("live").dataset.running === "true") job.abort();
  else begin(findInCamera);
});
cameras.addEventListener("change", () => begin(findInCamera));
slider.addEventListener("input", () => {
  element("least").value = least().toFixed(2);
  if (shown) view.showPersons(shown, wantedPersons(), skeleton);
});
slider.addEventListener("change", () => askAgain(least()));
for (const button of document.querySelectorAll("[data-form]")) {
  button.addEventListener("click", () => copy(button.dataset.form));
}
element("access").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(element("key").value.trim());
  begin(work);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("stage").classList.add("over");
});
document.addEventListener("dragleave", () => element("stage").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("stage").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));

begin(prepare);
