// The gallery of judged pairs: filters, pages, and for each pair both orders' probabilities, reasons and the rubric's lines.

import { el, isInUse, say } from "./dom.js";
import { decision, verdictDetails } from "./verdict.js";

/** Pairs on a page. */
const PAGE = 24;

/** What stands for a picture that is not there. */
const absent = (name) => el("span", { class: "absent" }, `${name} is not kept here`);

/** A picture by its hash; `link` gives its address, or nothing where it is not kept. */
function picture(link, sha256, name) {
  const address = link(sha256);
  if (!address) return absent(name);
  const image = el("img", { src: address, alt: name, loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(absent(name)));
  return image;
}

function framed(node, name, won) {
  return el("span", { class: won ? "frame won" : "frame" }, node, el("span", { class: "dim small" }, won ? `${name} ✓` : name));
}

/** The pictures of a pair or a larger group, with what is edited and what the task's file gave along. */
function pictures(pair, link) {
  const sources = pair.sources || [];
  const given = [...sources.map((sha256) => [sha256, "source"]), [pair.mask, "mask"], [pair.target, "target"]];
  const shown = given.filter(([sha256]) => sha256).map(([sha256, name]) => framed(picture(link, sha256, name), name));
  const candidates = pair.images.map((sha256, index) => {
    const name = `candidate ${index + 1}`;
    const own = picture(link, sha256, name);
    // The browser subtracts the source, which lies over the candidate, while differences are shown.
    const over = sources.length && link(sources[0]) ? el("img", { src: link(sources[0]), alt: "", class: "over" }) : null;
    const won = Boolean(pair.ranks && pair.ranks[index] === 1);
    return framed(over ? el("span", { class: "edit" }, own, over) : own, name, won);
  });
  return el("div", { class: "pictures" }, shown, candidates);
}

/** The matches of a group in the order of its verdicts: first against second, against third, and so on. */
function matches(count) {
  const all = [...Array(count).keys()];
  return all.flatMap((a) => all.slice(a + 1).map((b) => [`candidate ${a + 1}`, `candidate ${b + 1}`]));
}

/** What the held-out judge says of a match, where it has looked. */
function heldOut(pair, index, names, rubrics) {
  const record = (pair.held_out || [])[index];
  if (!record) return null;
  const [judge, other] = [pair.verdicts[index].verdict, record.verdict];
  const disputed = judge.kind === "preferred" && other.kind === "preferred" && judge.side !== other.side;
  const summary = `Held-out judge: ${decision(other, names)}`;
  return el("details", { class: "small" }, el("summary", { class: disputed ? "warn" : "" }, summary), verdictDetails(record, names, rubrics));
}

function card(pair, link, rubrics) {
  const names = matches(pair.images.length);
  const isGroup = pair.verdicts.length > 1;
  const details = pair.verdicts.flatMap((record, index) => {
    const shown = [verdictDetails(record, names[index], rubrics), heldOut(pair, index, names[index], rubrics)];
    if (!isGroup) return shown;
    return el("details", {}, el("summary", {}, names[index].join(" against ")), shown);
  });
  const fields = Object.entries(pair.fields || {}).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
  return el(
    "li",
    { class: "card pair" },
    pictures(pair, link),
    el("p", { class: "prompt" }, pair.prompt),
    el("p", { class: "dim small" }, `step ${pair.step}, prompt ${pair.index + 1} of the step`, isGroup && pair.ranks && `, ranks ${pair.ranks.join(", ")}`),
    fields.length > 0 && el("p", { class: "dim small" }, fields.join("; ")),
    pair.skipped && el("p", { class: "warn small" }, `gave no gradient: ${pair.skipped}`),
    details,
  );
}

const choice = (name, label, options) =>
  el("label", {}, el("span", {}, label), el("select", { name }, options.map(([value, words]) => el("option", { value }, words))));

/**
 * The gallery in `node`. `load(filters, after)` answers with `{ pairs, rubrics, next }`, `rubrics` being those that the pairs' verdicts name, and `next` what to
 * load after to go on; `link(sha256)` is the address of a picture.
 */
export function createGallery(node, { load, link }) {
  const status = el("p", { class: "dim", role: "status", "aria-live": "polite" });
  const list = el("ul", { class: "gallery" });
  const more = el("button", { type: "button", hidden: true, click: () => show(next) }, "Show more");
  const difference = el("label", { class: "check", hidden: true }, el("input", { type: "checkbox", change: ({ target }) => list.classList.toggle("difference", target.checked) }), " Show what was changed of the source");
  const filters = el(
    "form",
    { class: "filters", "aria-label": "Filter the judged pairs" },
    el("label", {}, el("span", {}, "Step"), el("input", { name: "step", type: "number", min: 1, inputmode: "numeric" })),
    el("label", {}, el("span", {}, "Words of the prompt"), el("input", { name: "prompt", type: "search" })),
    choice("outcome", "Outcome", [["", "all"], ["decided", "decided"], ["undecided", "undecided"], ["failed", "could not be judged"], ["skipped", "gave no gradient"], ["disputed", "the held-out judge disagrees"]]),
    choice("winner", "Better", [["", "any"], ["1", "candidate 1"], ["2", "candidate 2"]]),
    el("button", { type: "reset" }, "Clear"),
    difference,
  );
  let next = null;
  let request = 0;
  let count = 0;

  /** The filters that are set. */
  function chosen() {
    return Object.fromEntries([...new FormData(filters)].filter(([, value]) => value !== ""));
  }

  async function show(after) {
    const own = ++request;
    try {
      const page = await load({ ...chosen(), limit: PAGE }, after);
      // Another filter was chosen meanwhile.
      if (own !== request) return;
      const cards = page.pairs.map((pair) => card(pair, link, page.rubrics));
      count = after ? count + cards.length : cards.length;
      if (after) list.append(...cards);
      else list.replaceChildren(...cards);
      next = page.next;
      more.hidden = !next;
      if (page.pairs.some(({ sources }) => sources && sources.length)) difference.hidden = false;
      const are = count === 1 ? "1 pair is shown" : `${count} pairs are shown`;
      say(status, count ? `${are}, the newest step first${next ? "; there are more" : ""}.` : "No pair is like that.");
      if (after && cards.length) cards[0].scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (own === request) say(status, `The pairs cannot be shown: ${error.message}`);
    }
  }

  let typing = null;
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", ({ target }) => {
    if (target.type === "checkbox") return;
    clearTimeout(typing);
    typing = setTimeout(() => show(null), 250);
  });
  filters.addEventListener("reset", () => setTimeout(() => show(null)));
  node.append(filters, status, list, more);
  return {
    /** Loads the first page anew, unless somebody reads it or has gone further. */
    refresh() {
      if (count <= PAGE && !isInUse(list)) show(null);
    },
  };
}
