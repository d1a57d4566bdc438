/** The service as the page sees it: requests, what can go wrong, and trying again. */

const FIRST_PAUSE = 0.5, LONGEST_PAUSE = 8; // seconds
const FULL_OR_AWAY = new Set([429, 502, 503]);

let key = ""; // in memory alone

export function useKey(given) {
  key = given;
}

export function hasKey() {
  return key !== "";
}

/** A failure to tell: `passing` when it is worth trying again by itself, `pause` the seconds asked for. */
export class Problem extends Error {
  constructor(code, detail, { passing = false, pause = 0 } = {}) {
    super(detail);
    Object.assign(this, { code, passing, pause });
  }
}

export function unreachable() {
  return new Problem("unreachable", "The service cannot be reached.", { passing: true });
}

/** The JSON of an answer. Throws Problem, or AbortError when `signal` says so. */
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
  const told = detail?.replace(/^image 0: /, "") ?? `The service answered ${response.status}.`; // one is sent
  throw new Problem(response.status === 401 ? "unauthenticated" : code, told, {
    passing: FULL_OR_AWAY.has(response.status),
    pause: Number(response.headers.get("retry-after")) || 0,
  });
}

/** A connection to /v1/stream. A page cannot give it headers: the key travels as a subprotocol. */
export function openSocket() {
  const url = new URL("v1/stream", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const encoded = btoa(String.fromCharCode(...new TextEncoder().encode(key)));
  const token = encoded.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return new WebSocket(url, key ? ["pose.v1", `bearer.${token}`] : []);
}

/**
 * What `attempt` gives, tried again with growing pauses while its failure is a passing one.
 *
 * `attempt` is handed a function that it calls once things go well; the next pause is a short one then.
 * `told` hears of each failure and of the seconds until the next attempt.
 */
export async function persistently(attempt, { signal, told }) {
  for (let pause = FIRST_PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    try {
      return await attempt(() => (pause = FIRST_PAUSE / 2));
    } catch (error) {
      if (!error.passing || signal.aborted) throw error;
      const seconds = Math.max(pause, error.pause);
      told(error, seconds);
      await new Promise((resolve) => {
        setTimeout(resolve, 1000 * seconds);
        signal.addEventListener("abort", resolve);
      });
      signal.throwIfAborted();
    }
  }
}
