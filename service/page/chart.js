/** A stacked bar for each answer, with the time of each stage. */

const STAGES = ["network", "wait", "queue", "decode", "detect", "pose", "other"]; // from the bottom
const BARS = 60, WIDTH = 300, HEIGHT = 90, STEP = WIDTH / BARS; // in the units of the SVG
const SVG = "http://www.w3.org/2000/svg";
const FIGURES_MS = 500; // interval of updates, so that figures can be read
const SPAN_MS = 2000, FEWEST = 5; // the figures are means of answers in this span, or of at least FEWEST

export class Chart {
  #answers = []; // each with its seconds by stage and its time of arrival
  #paths;
  #top;
  #figures = {};
  #rate;
  #shown = 0;

  constructor(svg, list, rate) {
    this.#rate = rate;
    this.#paths = Object.fromEntries(STAGES.map((stage) => [stage, svg.appendChild(pathOf(stage))]));
    this.#top = svg.appendChild(document.createElementNS(SVG, "text"));
    this.#top.setAttribute("y", -4);
    for (const stage of STAGES) {
      const name = document.createElement("dt");
      name.className = stage;
      name.textContent = stage;
      this.#figures[stage] = document.createElement("dd");
      list.append(name, this.#figures[stage]);
    }
    this.clear();
  }

  clear() {
    this.#answers = [];
    this.#shown = 0;
    this.#draw();
    for (const stage of STAGES) this.#figures[stage].textContent = "–";
    this.#rate.textContent = "";
  }

  /** Add an answer: its timings, seconds from sending to receiving, and seconds behind the previous frame.
   *  The timings add up to the time in the service, so `network` is the transfer of request and answer. */
  add(timings, total, wait = 0) {
    const answer = { ...timings, wait, network: 0, came: performance.now() };
    answer.network = Math.max(0, total - sumOf(answer));
    this.#answers.push(answer);
    this.#answers.splice(0, this.#answers.length - BARS);
    this.#draw();
    if (performance.now() - this.#shown > FIGURES_MS) this.#show();
  }

  #draw() {
    const top = roundUp(Math.max(0.01, ...this.#answers.map(sumOf)));
    const tops = this.#answers.map(() => 0);
    for (const stage of STAGES) {
      const bars = this.#answers.map((answer, index) => {
        const x = WIDTH - (this.#answers.length - index) * STEP;
        const bottom = heightOf(tops[index] / top);
        tops[index] += answer[stage];
        return `M${x} ${bottom}h${STEP - 1}V${heightOf(tops[index] / top)}h${1 - STEP}z`;
      });
      this.#paths[stage].setAttribute("d", bars.join(""));
    }
    this.#top.textContent = this.#answers.length ? milliseconds(top) : "";
  }

  #show() {
    const now = (this.#shown = performance.now());
    const few = this.#answers.length - FEWEST;
    const recent = this.#answers.filter(({ came }, index) => index >= few || now - came < SPAN_MS);
    for (const stage of STAGES) {
      const mean = recent.reduce((sum, answer) => sum + answer[stage], 0) / recent.length;
      this.#figures[stage].textContent = milliseconds(mean);
    }
    const span = (now - recent[0].came) / 1000;
    this.#rate.textContent = recent.length > 1 ? `${((recent.length - 1) / span).toFixed(1)} frames/s` : "";
  }
}

function pathOf(stage) {
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("class", stage);
  return path;
}

function sumOf(answer) {
  return STAGES.reduce((sum, stage) => sum + answer[stage], 0);
}

function heightOf(share) {
  return (HEIGHT * (1 - share)).toFixed(2);
}

/** The next value of 1, 2, 5 times a power of ten. */
function roundUp(seconds) {
  const power = 10 ** Math.floor(Math.log10(seconds));
  return [1, 2, 5, 10].find((step) => step * power >= seconds) * power;
}

function milliseconds(seconds) {
  return `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
}
