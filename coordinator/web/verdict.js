// A judge's verdict in words and bars.

import { el, number, percent } from "./dom.js";

const ABSTAINED = {
  orders_disagree: "the two image orders disagree",
  too_close: "too close to one half",
  outside_labels: "the judge answered something else",
  no_majority: "no majority among the judges",
  vetoed: "a judge with a veto prefers the other",
  too_alike: "the judge was not asked, the pictures are too alike",
};

/** A decision in words; `names` are what the first and the second picture are called. */
export function decision({ kind, side, reason }, names) {
  if (kind === "preferred") return `${names[side === "first" ? 0 : 1]} is better`;
  if (kind === "abstain") return `undecided: ${ABSTAINED[reason] || reason}`;
  return `not judged: ${reason}`;
}

/** The probability of the first picture in one image order, as a bar around one half. */
function orderBar(label, probability) {
  const meter = el("meter", { min: 0, max: 1, low: 0.5, high: 0.5, optimum: 1, value: probability, "aria-label": `${label}: ${percent(probability)}` });
  return el("div", { class: "order" }, el("span", {}, label), meter, el("span", { class: "figure" }, percent(probability)));
}

/**
 * A verdict with its evidence: the probabilities of the image orders asked, the votes of an ensemble, the lines of the rubric that decided, and for each of its
 * themes what the judge says. `rubrics` are those that are known, by their SHA-256.
 */
export function verdictDetails(record, names, rubrics) {
  const rubric = (rubrics || {})[record.rubric];
  const themes = themesOf(rubric && rubric.text);
  const [shownFirst, shownSecond] = record.order_probabilities;
  const isUnasked = record.verdict.kind === "failed" || record.verdict.reason === "too_alike";
  const orders = record.orders || "both";
  return el(
    "div",
    { class: "verdict" },
    el("p", { class: record.verdict.kind === "preferred" ? "decided" : "dim" }, decision(record.verdict, names)),
    !isUnasked && [
      el("p", { class: "dim small" }, `Probability that ${names[0]} is better`),
      orders !== "swapped" && orderBar("shown first", shownFirst),
      orders !== "straight" && orderBar("shown second", shownSecond),
      el("p", { class: "dim small" }, orders === "both" ? `mean ${number(record.probability_first)}` : "asked in this image order alone"),
    ],
    (record.votes || []).length > 0 &&
      el("ul", { class: "small" }, record.votes.map(({ judge, weight, verdict, veto }) => el("li", {}, `${judge} (weight ${number(weight)}${veto ? ", a veto" : ""}): ${decision(verdict, names)}`))),
    (record.reasons || []).length > 0 && reasons(record.reasons, names, themes),
    rubric && lines(rubric, themes),
  );
}

/** The lines by which a judge decided. */
function lines({ of_prompt: isOwn }, themes) {
  const items = [...themes].map(([theme, own]) => el("li", {}, theme && el("b", {}, theme), el("ul", { class: "dim lines" }, own.map((line) => el("li", {}, line)))));
  return el("details", { class: "small" }, el("summary", {}, isOwn ? "The rubric of this prompt" : "The rubric"), el("ul", { class: "reasons" }, items));
}

function reasons(list, names, themes) {
  const items = list.map(({ theme, verdict, probability_first: first, sentence }) => {
    const lines = themes.get(theme || "") || [];
    return el(
      "li",
      {},
      el("b", {}, theme || "Rubric"),
      ` ${decision(verdict, names)} (${percent(first)} for ${names[0]})`,
      sentence && el("p", {}, sentence),
      lines.length > 0 && el("ul", { class: "dim lines" }, lines.map((line) => el("li", {}, line))),
    );
  });
  return el("details", { class: "small" }, el("summary", {}, `Reasons under ${list.length} ${list.length === 1 ? "theme" : "themes"}`), el("ul", { class: "reasons" }, items));
}

/** The lines of each theme of a rubric's text, by the theme's name; those of a theme without one by the empty name. */
export function themesOf(text) {
  const themes = new Map();
  for (const block of (text || "").split(/\n\s*\n/)) {
    const lines = block.split("\n").filter((line) => line.trim());
    if (!lines.length) continue;
    const hasName = !lines[0].startsWith("- ");
    const name = hasName ? lines[0].trim() : "";
    const own = (hasName ? lines.slice(1) : lines).map((line) => line.replace(/^- /, ""));
    themes.set(name, [...(themes.get(name) || []), ...own]);
  }
  return themes;
}
