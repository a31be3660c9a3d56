// Elements, and figures and times as people read them.

/**
 * An element. An attribute that is null or false is left out, a function listens to the event of its name, and children that are null or
 * false are no children.
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

/** Says a text where it is not said already: a live region speaks up only when its text changes. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Whether somebody reads a list just now: it is not to be replaced under their eyes. */
export const isInUse = (list) => list.matches(":hover") || list.contains(document.activeElement) || list.querySelector("details[open]") !== null;

/** A table with a header row. Cells are texts or nodes. */
export function table(label, names, rows) {
  const head = el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)));
  const body = rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell instanceof Node ? cell : String(cell)))));
  const made = el("table", { "aria-label": label }, el("thead", {}, head), el("tbody", {}, body));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, made);
}

/** A figure in few characters. */
export function number(value) {
  if (value == null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3) return value.toExponential(1);
  return size < 1000 ? String(+value.toPrecision(3)) : Math.round(value).toLocaleString("en");
}

/** A share in percent. */
export const percent = (share) => (share == null ? "–" : `${+(100 * share).toFixed(1)} %`);

/** The time between two moments in milliseconds. */
export function since(from, to) {
  const seconds = Math.max(0, Math.round((to - from) / 1000));
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}

/** A moment as day and time of the reader's clock. */
export const moment = (unixMs) => new Date(unixMs).toLocaleString();

/** The first digits of a fingerprint, with the whole of it for whoever asks. */
export const fingerprint = (sha256) => el("code", { title: sha256 }, sha256.slice(0, 12));

const PHASES = {
  preparing: ["preparing", "busy"],
  training: ["training", "busy"],
  evaluating_base: ["evaluating the base", "busy"],
  evaluating_tuned: ["evaluating", "busy"],
  finished: ["finished", "good"],
  paused: ["paused", "warn"],
  stopped: ["stopped", "warn"],
  failed: ["failed", "bad"],
};

/** A phase as a tag. */
export function phaseTag({ kind }) {
  const [words, class_] = PHASES[kind] || [kind, "dim"];
  return el("span", { class: `tag ${class_}` }, words);
}

/** A unit in words, as the log has it. */
export function unitText({ kind, step, chunk, shard, arm, probe, place }) {
  const of = arm?.probe ?? probe ?? step;
  const part = chunk ?? shard;
  const words = [kind.replaceAll("_", " "), typeof arm === "string" && arm, of != null && `step ${of}`, part != null && `${shard != null ? "shard" : "chunk"} ${part}`, place && `${place.list.replaceAll("_", " ")} ${place.index}`];
  return words.filter(Boolean).join(", ");
}

/** Progress with its figures. */
export function bar(label, done, total) {
  const meter = el("progress", { max: Math.max(1, total), value: done, "aria-label": label });
  return [el("span", {}, label), meter, el("span", { class: "dim figure" }, `${done} / ${total}`)];
}
