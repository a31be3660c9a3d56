// What happened to a run: the rows of its ledger, the newest first.

import { el, isInUse, moment, say, table } from "./dom.js";

const PAGE = 50;

/** The list in `node`. `load({ before, limit })` answers with `{ events, last }`, the events in order; without `before` the latest. */
export function createEventList(node, { load }) {
  const status = el("p", { class: "dim", role: "status", "aria-live": "polite" });
  const rows = el("div", {});
  const newer = el("button", { type: "button", click: () => show(null) }, "Newest");
  const older = el("button", { type: "button", click: () => show(first) }, "Older");
  let first = null;
  let isLatest = true;

  async function show(before) {
    try {
      const { events, last } = await load(before == null ? { limit: PAGE } : { before, limit: PAGE });
      isLatest = before == null;
      first = events.length ? events[0].sequence : 0;
      newer.disabled = isLatest;
      older.disabled = first <= 1;
      const shown = [...events].reverse().map((event) => [event.sequence, moment(event.at_unix_ms), event.kind.replaceAll("_", " "), event.unit || "–", event.worker || "–", event.text || "–"]);
      rows.replaceChildren(table("Events", ["number", "when", "event", "unit", "worker", "words"], shown));
      say(status, events.length ? `Events ${first} to ${events[events.length - 1].sequence} of ${last}.` : "Nothing has happened yet.");
    } catch (error) {
      say(status, `The events cannot be shown: ${error.message}`);
    }
  }

  node.append(status, rows, el("div", { class: "row" }, newer, older));
  return {
    /** Shows the latest, unless somebody reads them or looks at older ones. */
    refresh() {
      if (isLatest && !isInUse(rows)) show(null);
    },
  };
}
