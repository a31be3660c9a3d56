// `/`: every run and every worker.

import { runPage } from "./api.js";
import { createDrain } from "./controls.js";
import { el, number, percent, phaseTag, say, since, table } from "./dom.js";
import { openFrame } from "./frame.js";
import { follow } from "./live.js";

const { banner, session } = await openFrame();
const list = document.getElementById("runs");
const crew = document.getElementById("workers");
const compare = document.getElementById("compare");
const chosen = new Set();

const mebibytes = (bytes) => (bytes >= 1 << 30 ? `${(bytes / (1 << 30)).toFixed(1)} GiB` : `${Math.round(bytes / (1 << 20))} MiB`);

function choice(name) {
  const input = el("input", { type: "checkbox", name: "run", value: name, "aria-label": `Compare ${name}`, change: choose });
  input.checked = chosen.has(name);
  return input;
}

function choose({ target }) {
  if (target.checked) chosen.add(target.value);
  else chosen.delete(target.value);
  offerComparison();
}

function offerComparison() {
  const link = compare.querySelector("a");
  compare.hidden = chosen.size < 2;
  link.href = `/compare?runs=${[...chosen].map(encodeURIComponent).join(",")}`;
  say(link, `Compare ${chosen.size} runs`);
}

function rate(run) {
  if (!run.win_rate) return "–";
  const { value, low, high } = run.win_rate;
  return `${number(value)} [${number(low)}, ${number(high)}]`;
}

function showRuns(runs) {
  if (!runs.length) return list.replaceChildren(el("p", { class: "dim" }, "No run yet: submit one with ", el("code", {}, "gavel submit CONFIG"), "."));
  const rows = runs.map((run) => [
    choice(run.run),
    el("a", { href: runPage(run.run) }, run.run),
    phaseTag(run.phase),
    el("span", { class: "row" }, el("progress", { max: Math.max(1, run.steps_total), value: run.step, "aria-label": `Steps of ${run.run}` }), `${run.step} / ${run.steps_total}`),
    rate(run),
    percent(run.decided),
    number(run.kl),
    el("span", { class: "wrap" }, run.phase.reason || run.waiting),
  ]);
  const inFocus = document.activeElement?.name === "run" ? document.activeElement.value : null;
  list.replaceChildren(table("Runs", ["compare", "run", "phase", "steps", "win rate", "decided", "KL", "waits for"], rows));
  if (inFocus) list.querySelector(`input[value="${CSS.escape(inFocus)}"]`)?.focus();
  offerComparison();
}

function worksOn({ leases, leaves }, now) {
  const units = leases.map(({ run, unit, granted_unix_ms: granted }) => `${unit} of ${run} for ${since(granted, now)}`);
  return units.join(", ") || (leaves ? "leaves" : "nothing");
}

function showWorkers(workers, now) {
  if (!workers.length) {
    return crew.replaceChildren(el("p", { class: "dim" }, "None is registered. Start ", el("code", {}, "gavel sampler"), ", ", el("code", {}, "gavel judge"), " and ", el("code", {}, "gavel trainer"), " against this coordinator."));
  }
  const hasMemory = workers.some(({ memory }) => memory);
  const hasBusy = workers.some(({ busy_percent: busy }) => busy !== undefined);
  const names = ["worker", "role", "device", ...(hasMemory ? ["memory"] : []), ...(hasBusy ? ["busy"] : []), "works on", "done", "failed", "last heard of", "host", "version"];
  const rows = workers.map((worker) => [
    worker.id,
    worker.role,
    worker.device,
    ...(hasMemory ? [worker.memory ? `${mebibytes(worker.memory.used_bytes)} of ${mebibytes(worker.memory.total_bytes)}` : "–"] : []),
    ...(hasBusy ? [worker.busy_percent === undefined ? "–" : `${worker.busy_percent} %`] : []),
    el("span", { class: "wrap" }, worksOn(worker, now)),
    worker.completed,
    worker.failed,
    `${since(worker.seen_unix_ms, now)} ago`,
    `${worker.host} (${worker.pid})`,
    worker.version,
  ]);
  crew.replaceChildren(table("Workers", names, rows));
}

createDrain(document.getElementById("steer"), { maySteer: session.may_steer });

function onState(state) {
  banner.clear();
  showRuns(Object.values(state.runs).sort((a, b) => b.order - a.order));
  showWorkers(Object.values(state.workers), state.now_unix_ms);
  document.body.dataset.ready = "yes";
}

follow({ stream: "/api/v1/stream", poll: "/api/v1/overview", onState, onTrouble: (error) => banner.lost(error), onEnd: (end) => banner.end(end) });
