/** Shows the image, the persons as text, and messages. */

import { draw, personName, shownKeypoints } from "./drawing.js";

const SPOKEN_MS = 3000; // minimum interval of announcements to screen readers
const element = (id) => document.getElementById(id);
const stage = element("stage"), canvas = element("canvas"), video = element("video");
let spoken = 0;

/** Show an error, or clear it. */
export function say(text = "") {
  const sentence = text && `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;
  if (element("message").textContent !== sentence) element("message").textContent = sentence;
}

/** Show whether an answer is pending. */
export function waiting(yes) {
  stage.ariaBusy = `${yes}`;
}

/** Show the video until the first frame with skeletons. */
export function showVideo() {
  reveal(video, video.videoWidth, video.videoHeight);
  canvas.hidden = true;
}

export function hideVideo() {
  video.hidden = true;
}

/** Show a frame that has no answer yet. */
export function showPicture(frame, skeleton) {
  hideVideo();
  draw(canvas, frame, [], skeleton);
  reveal(canvas, frame.width, frame.height);
  tell("Looking …", []);
}

/** Show a frame with its persons. */
export function showPersons(frame, persons, skeleton) {
  draw(canvas, frame, persons, skeleton);
  reveal(canvas, frame.width, frame.height);
  const count = persons.length === 1 ? "1 person" : `${persons.length || "No"} persons`;
  tell(count, persons.map((person, index) => line(person, personName(person, index, frame.live))));
  if (!frame.live) speak(`${count} found in ${frame.name}.`);
  else if (performance.now() - spoken > SPOKEN_MS) speak(`${count} found.`);
}

/** Show only the invitation. */
export function showNothing() {
  for (const each of [canvas, video]) each.hidden = true;
  element("invitation").hidden = false;
  stage.style.aspectRatio = "";
  tell("No persons yet", []);
}

function reveal(shown, width, height) {
  element("invitation").hidden = true;
  shown.hidden = false;
  stage.style.aspectRatio = `${width} / ${height}`;
}

function tell(heading, lines) {
  element("found").textContent = heading;
  element("persons").replaceChildren(...lines);
}

function line(person, text) {
  const item = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = text;
  item.append(name, ` score ${person.score.toFixed(2)}, ${shownKeypoints(person)} of ${person.keypoints.length} keypoints`);
  return item;
}

function speak(text) {
  if (text === element("spoken").textContent) return;
  spoken = performance.now();
  element("spoken").textContent = text;
}
