/** Draws skeletons into an image, with the colours of the service. */

const SHOWN = 0.3; // keypoints below this score are not drawn
const ORANGE = "rgb(255 140 0)", BLUE = "rgb(30 130 255)", GREEN = "rgb(80 220 80)";
const SHARP = 1280; // minimum longer side of a canvas in pixels, for fine lines on small images

/** Number of drawn keypoints of a person. */
export function shownKeypoints(person) {
  return person.keypoints.filter(([, , score]) => score >= SHOWN).length;
}

/** Draw a frame (picture, width, height, live) and its persons; `skeleton`: see /v1/skeleton. */
export function draw(canvas, { picture, width, height, live }, persons, skeleton) {
  const scale = Math.max(1, Math.ceil(SHARP / Math.max(width, height)));
  canvas.width = scale * width;
  canvas.height = scale * height;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.scale(scale, scale);
  context.translate(0.5, 0.5); // integers are pixel centres
  persons.forEach((person) => drawPerson(context, person, skeleton));
  const size = Math.max(12, Math.round(Math.max(width, height) / 36));
  persons.forEach((person, index) => drawName(context, person, personName(person, index, live), size));
}

/** On a photo the index of the person in the list, else the track id, if there is one. */
export function personName({ track_id: track }, index, live) {
  if (!live) return `${index + 1}`;
  return track === undefined ? "new" : `#${track}`;
}

function drawPerson(context, { bbox, keypoints }, { edges, flip_pairs: pairs }) {
  const [x1, y1, x2, y2] = bbox;
  const width = Math.max(1, Math.round(Math.max(x2 - x1, y2 - y1) / 100));
  const colour = (...indices) => sideColour(pairs, indices);
  context.lineWidth = width;
  context.lineCap = "round";
  for (const edge of edges) {
    const [[ax, ay, a], [bx, by, b]] = edge.map((index) => keypoints[index]);
    if (Math.min(a, b) < SHOWN) continue;
    context.strokeStyle = colour(...edge);
    context.beginPath();
    context.moveTo(ax, ay);
    context.lineTo(bx, by);
    context.stroke();
  }
  keypoints.forEach(([x, y, score], index) => {
    if (score < SHOWN) return;
    context.fillStyle = colour(index);
    context.beginPath();
    context.arc(x, y, width + 1, 0, 2 * Math.PI);
    context.fill();
  });
}

function sideColour(pairs, indices) {
  const [lefts, rights] = [0, 1].map((side) => new Set(pairs.map((pair) => pair[side])));
  if (indices.every((index) => lefts.has(index))) return ORANGE;
  return indices.every((index) => rights.has(index)) ? BLUE : GREEN;
}

/** Draw the label at the upper left corner of the box, above it if there is room. */
function drawName(context, { bbox: [x1, y1] }, name, size) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(name).width + size, height = 1.5 * size;
  const left = Math.max(0, x1), top = Math.max(0, y1 - height);
  context.fillStyle = "rgb(0 0 0 / 70%)";
  context.beginPath();
  context.roundRect(left, top, width, height, height / 4);
  context.fill();
  context.fillStyle = "white";
  context.textBaseline = "middle";
  context.fillText(name, left + size / 2, top + height / 2);
}
