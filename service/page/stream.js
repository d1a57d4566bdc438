/** Streams the frames of a video over a WebSocket, and reconnects if necessary. */

import { openSocket, persistently, Problem, request, unreachable } from "./api.js";

const WINDOW = 2; // frames without an answer: one in work, one waiting
const LONGEST_SIDE = 640; // of a sent frame, in pixels
const PASSING = new Set([1001, 1006, 1011, 1012, 1013]); // close codes after which a retry may succeed

/**
 * Streams until the video ends or `signal` aborts, then waits for the remaining answers.
 *
 * `answered` is called with the frame (a canvas), its answer, the latency, and the part of it behind the
 * previous frame; `lost` with the number of frames that a broken connection left without an answer; `failed`:
 * see `persistently`. Throws Problem.
 */
export async function stream(video, config, { signal, answered, lost, failed }) {
  await persistently(
    async (goesWell) => {
      await request("v1/skeleton"); // reports why it fails, which a WebSocket does not
      const conversation = new Conversation(video, signal, (...answer) => {
        goesWell();
        answered(...answer);
      });
      try {
        await conversation.run(config);
      } finally {
        lost(conversation.due.length);
      }
    },
    { signal, failed },
  );
}

/** One connection; `due` has the frames without an answer, oldest first. */
class Conversation {
  due = [];
  #last = 0;
  #video;
  #signal;
  #answered;
  #failure;
  #room = () => {};

  constructor(video, signal, answered) {
    this.#video = video;
    this.#signal = signal;
    this.#answered = answered;
  }

  /** Resolves after a requested end. Throws Problem for any other end. */
  run(config) {
    const socket = openSocket();
    return new Promise((resolve, reject) => {
      socket.onopen = () => {
        socket.send(JSON.stringify(config));
        this.#send(socket).catch((error) => {
          this.#failure = error;
          socket.close();
        });
      };
      socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
      socket.onclose = ({ code }) => {
        this.#room();
        if (code === 1000 && !this.#failure) resolve();
        else reject(this.#problem(code));
      };
    });
  }

  #problem(code) {
    const passing = PASSING.has(code);
    const other = passing ? unreachable() : { message: `The service ended the stream: ${code}.` };
    const failure = this.#failure ?? other;
    return new Problem(failure.code, failure.message, { passing });
  }

  #take(answer) {
    if (answer.frame_id === undefined) {
      this.#failure = answer.error;
      return;
    }
    const { canvas, sent } = this.due.shift();
    const now = performance.now();
    this.#answered(canvas, answer, (now - sent) / 1000, Math.max(0, this.#last - sent) / 1000);
    this.#last = now;
    this.#room();
  }

  async #send(socket) {
    while (!this.#signal.aborted && !this.#video.ended) {
      if (this.due.length >= WINDOW) await new Promise((resolve) => (this.#room = resolve));
      await nextFrame(this.#video);
      const canvas = capture(this.#video);
      const picture = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.85));
      if (socket.readyState !== WebSocket.OPEN) return;
      this.due.push({ canvas, sent: performance.now() });
      socket.send(picture);
    }
    socket.send("end");
  }
}

/** The next new frame; a hidden page gets one a second. */
function nextFrame(video) {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
    else requestAnimationFrame(resolve);
    setTimeout(resolve, 1000);
  });
}

function capture(video) {
  const share = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(share * video.videoWidth);
  canvas.height = Math.round(share * video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return canvas;
}
