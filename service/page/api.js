/** Requests to the service, their failures, and retries. */

const FIRST_PAUSE = 0.5, LONGEST_PAUSE = 8; // seconds
const FULL_OR_AWAY = new Set([429, 502, 503]);

let key = ""; // only in memory

export function useKey(given) {
  key = given;
}

export function hasKey() {
  return key !== "";
}

/** A failure to show; `passing`: it may be retried automatically, `pause`: requested seconds before that. */
export class Problem extends Error {
  constructor(code, detail, { passing = false, pause = 0 } = {}) {
    super(detail);
    Object.assign(this, { code, passing, pause });
  }
}

export function unreachable() {
  return new Problem("unreachable", "The service cannot be reached.", { passing: true });
}

/** The JSON of an answer. Throws Problem, or AbortError when `signal` aborts. */
export async function request(path, { headers = {}, ...options } = {}) {
  const authorization = key && { authorization: `Bearer ${key}` };
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...authorization } });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (response.ok) return response.json();
  const { code, detail } = await response.json().catch(() => ({}));
  const message = detail?.replace(/^image 0: /, "") ?? `The service answered ${response.status}.`; // only one image is sent
  throw new Problem(response.status === 401 ? "unauthenticated" : code, message, {
    passing: FULL_OR_AWAY.has(response.status),
    pause: Number(response.headers.get("retry-after")) || 0,
  });
}

/** A connection to /v1/stream. A page cannot set headers, so the key is a subprotocol. */
export function openSocket() {
  const url = new URL("v1/stream", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const encoded = btoa(String.fromCharCode(...new TextEncoder().encode(key)));
  const token = encoded.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return new WebSocket(url, key ? ["pose.v1", `bearer.${token}`] : []);
}

/**
 * The result of `attempt`, which is retried with growing pauses after passing failures.
 *
 * `attempt` receives a function to call after a success, which makes the next pause short.
 * `failed` is called with each failure and the seconds until the next attempt.
 */
export async function persistently(attempt, { signal, failed }) {
  for (let pause = FIRST_PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    try {
      return await attempt(() => (pause = FIRST_PAUSE / 2));
    } catch (error) {
      if (!error.passing || signal.aborted) throw error;
      const seconds = Math.max(pause, error.pause);
      failed(error, seconds);
      await new Promise((resolve) => {
        setTimeout(resolve, 1000 * seconds);
        signal.addEventListener("abort", resolve);
      });
      signal.throwIfAborted();
    }
  }
}
