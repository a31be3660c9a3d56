// The held-out prompts: what base and tuned policy made of each from the same noise, what probes made of it, and the judge's word.

import { el, isInUse, say } from "./dom.js";
import { verdictDetails } from "./verdict.js";

/** Prompts on a page. */
const PAGE = 12;
/** Probes that are shown beside base and adapter, the latest. */
const PROBES = 2;
const NAMES = ["the base", "the adapter"];

function column(link, sha256, name, won) {
  const image = sha256 ? el("img", { src: link(sha256), alt: name, loading: "lazy" }) : el("span", { class: "absent" }, "not there yet");
  return el("span", { class: won ? "frame won" : "frame" }, image, el("span", { class: "dim small" }, won ? `${name} ✓` : name));
}

function card(task, link, rubrics) {
  const isBetter = ({ verdict } = {}) => Boolean(verdict && verdict.verdict.kind === "preferred" && verdict.verdict.side === "second");
  const probes = task.probes.slice(-PROBES).map((probe) => column(link, probe.image, `step ${probe.step}`, isBetter(probe)));
  return el(
    "li",
    { class: "card pair" },
    el(
      "div",
      { class: "pictures" },
      (task.sources || []).map((sha256) => column(link, sha256, "source", false)),
      column(link, task.base, "base", false),
      probes,
      column(link, task.tuned, "tuned", isBetter(task)),
    ),
    el("p", { class: "prompt" }, task.prompt),
    task.verdict && verdictDetails(task.verdict, NAMES, rubrics),
  );
}

/** The grid in `node`. `load({ after, limit })` answers with `{ tasks, rubrics, next }`. */
export function createEvaluation(node, { load, link }) {
  const status = el("p", { class: "dim", role: "status", "aria-live": "polite" });
  const list = el("ul", { class: "gallery" });
  const more = el("button", { type: "button", hidden: true, click: () => show(next) }, "Show more");
  let next = null;
  let count = 0;

  async function show(after) {
    try {
      const page = await load({ after, limit: PAGE });
      const cards = page.tasks.map((task) => card(task, link, page.rubrics));
      count = after ? count + cards.length : cards.length;
      if (after) list.append(...cards);
      else list.replaceChildren(...cards);
      next = page.next;
      more.hidden = next == null;
      say(status, count ? `${count} held-out ${count === 1 ? "prompt is" : "prompts are"} shown, each painted from the same noise${more.hidden ? "" : "; there are more"}.` : "No held-out picture is painted yet.");
    } catch (error) {
      say(status, `The held-out prompts cannot be shown: ${error.message}`);
    }
  }

  node.append(status, list, more);
  return {
    /** Loads the first page anew, unless somebody reads it or has gone further. */
    refresh() {
      if (count <= PAGE && !isInUse(list)) show(null);
    },
  };
}
