// `/compare?runs=A,B`: the same figures of several runs in one chart each, and where their settings differ.

import { get, runPage, runPath } from "./api.js";
import { createCharts } from "./chart.js";
import { el, number, phaseTag, table } from "./dom.js";
import { figuresOfRuns } from "./figures.js";
import { openFrame } from "./frame.js";

const names = (new URLSearchParams(location.search).get("runs") || "").split(",").filter(Boolean);
const at = (id) => document.getElementById(id);
const { banner } = await openFrame();
const showCharts = createCharts(at("charts"));

/** Every key of a specification with its value as text. */
function keysOf(spec) {
  const keys = new Map();
  for (const [section, value] of Object.entries(spec)) {
    if (value === null || typeof value !== "object" || Array.isArray(value)) keys.set(section, JSON.stringify(value));
    else for (const [key, inner] of Object.entries(value)) keys.set(`${section}.${key}`, JSON.stringify(inner));
  }
  return keys;
}

function showDifferences(runs) {
  const specs = runs.map(({ settings }) => keysOf(settings.spec));
  const all = [...new Set(specs.flatMap((keys) => [...keys.keys()]))];
  const differ = all.filter((key) => new Set(specs.map((keys) => keys.get(key))).size > 1);
  const rows = differ.map((key) => [key, ...specs.map((keys) => el("code", {}, keys.get(key) ?? "–"))]);
  at("differences").replaceChildren(rows.length ? table("Settings that differ", ["key", ...names], rows) : el("p", { class: "dim" }, "No setting differs."));
}

function showSummary(runs) {
  const rate = ({ state }) => state.evaluation?.win_rate;
  const rows = runs.map((run) => [
    el("a", { href: runPage(run.name) }, run.name),
    phaseTag(run.state.phase),
    `${run.state.step} / ${run.state.steps_total}`,
    rate(run) ? `${number(rate(run).value)} [${number(rate(run).low)}, ${number(rate(run).high)}]` : "–",
  ]);
  at("summary").replaceChildren(table("The runs", ["run", "phase", "steps", "win rate at the end"], rows));
}

async function refresh() {
  try {
    const runs = await Promise.all(
      names.map(async (name) => {
        const [state, settings] = await Promise.all([get(runPath(name)), get(runPath(name, "settings"))]);
        return { name, state, settings, steps: state.steps, probes: state.probes };
      }),
    );
    banner.clear();
    showSummary(runs);
    showCharts(figuresOfRuns(runs));
    showDifferences(runs);
    document.body.dataset.ready = "yes";
  } catch (error) {
    banner.lost(error);
  }
  setTimeout(refresh, document.hidden ? 30000 : 5000);
}

if (names.length) refresh();
else at("summary").replaceChildren(el("p", {}, "Choose runs on ", el("a", { href: "/" }, "the list of runs"), "."));
