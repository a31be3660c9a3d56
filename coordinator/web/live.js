// A state that is kept up to date: over a stream of changes where there is one, else by asking again and again.

import { get } from "./api.js";
import { applyMergePatch } from "./merge_patch.js";

/** How often the state is asked for where there is no stream, and how often a stream is tried again. */
const POLL_MS = 2000;
const RETRY_MS = 10000;
/** How often ages are told anew while nothing else changes. */
const AGES_MS = 5000;

/**
 * Follows the state at `stream`; `poll` answers with the same where streams do not get through. `onState(state)` hears of each state,
 * `onTrouble(error)` that there is no news, and `onEnd(end)` that the coordinator ends.
 */
export function follow({ stream, poll, onState, onTrouble, onEnd }) {
  let source = null;
  let timer = null;
  let state = null;
  let heardAt = 0;
  let triedStream = 0;

  function take(next) {
    state = next;
    heardAt = Date.now();
    onState(state);
  }

  // A stream is silent while nothing happens: the time goes on all the same.
  setInterval(() => {
    if (source?.readyState === EventSource.OPEN && state) onState({ ...state, now_unix_ms: state.now_unix_ms + Date.now() - heardAt });
  }, AGES_MS);

  function listen() {
    triedStream = Date.now();
    source = new EventSource(stream);
    source.addEventListener("state", ({ data }) => take(JSON.parse(data)));
    source.addEventListener("patch", ({ data }) => take(applyMergePatch(state, JSON.parse(data))));
    source.addEventListener("end", ({ data }) => {
      stop();
      onEnd(JSON.parse(data));
      timer = setTimeout(ask, POLL_MS);
    });
    source.addEventListener("error", () => {
      stop();
      ask();
    });
  }

  async function ask() {
    try {
      take(await get(poll));
      // It answers: the stream may get through again.
      if (Date.now() - triedStream > RETRY_MS) return listen();
    } catch (error) {
      onTrouble(error);
      // As soon as it answers, the stream is tried.
      triedStream = 0;
    }
    timer = setTimeout(ask, POLL_MS);
  }

  function stop() {
    if (source) source.close();
    source = null;
    clearTimeout(timer);
  }

  // A browser has six connections for all of its pages: one that nobody sees leaves its own to others.
  document.addEventListener("visibilitychange", () => {
    stop();
    if (!document.hidden) listen();
  });
  listen();
}
