// `/runs/RUN`: one run, while it goes on and afterwards.

import { blobPath, get, runPath } from "./api.js";
import { createCharts } from "./chart.js";
import { createControls } from "./controls.js";
import { bar, el, fingerprint, moment, number, percent, phaseTag, say, since, table, unitText } from "./dom.js";
import { createEvaluation } from "./evaluation.js";
import { createEventList } from "./event_list.js";
import { figuresOfProbes, figuresOfSteps } from "./figures.js";
import { openFrame } from "./frame.js";
import { createGallery } from "./gallery.js";
import { follow } from "./live.js";
import { atMostEvery } from "./pace.js";

const name = decodeURIComponent(location.pathname.replace(/^\/runs\//, ""));
const at = (id) => document.getElementById(id);
const query = (parameters) => new URLSearchParams(Object.entries(parameters).filter(([, value]) => value != null && value !== "")).toString();

document.title = `${name} · Gavel`;
say(at("name"), name);
at("download").href = runPath(name, "adapter");
const { banner, session } = await openFrame();
const controls = createControls(at("steer"), { maySteer: session.may_steer });
const showCharts = createCharts(at("charts"));

const gallery = createGallery(at("pairs"), { link: blobPath, load: (filters, after) => get(runPath(name, `pairs?${query({ ...filters, after })}`)) });
const evaluation = createEvaluation(at("evaluation"), { link: blobPath, load: (page) => get(runPath(name, `evaluation?${query(page)}`)) });
const events = createEventList(at("events"), { load: (page) => get(runPath(name, `events?${query(page)}`)) });

const refreshPairs = atMostEvery(3000, gallery.refresh);
const refreshEvaluation = atMostEvery(3000, evaluation.refresh);
const refreshEvents = atMostEvery(2000, events.refresh);

/** The figures of the steps so far. */
let steps = [];

/** Fetches the steps that are not known yet; after a rollback, all of them. */
async function fetchSteps(run) {
  const latest = run.steps[run.steps.length - 1];
  const known = steps[run.step - 1];
  if (steps.length > run.step || (known && JSON.stringify(known) !== JSON.stringify(latest))) steps = [];
  while (steps.length < run.step) {
    const page = await get(runPath(name, `steps?since_step=${steps.length}`));
    if (!page.steps.length) return;
    steps = [...steps, ...page.steps];
  }
}

function showState(run) {
  const now = run.now_unix_ms;
  at("phase").replaceChildren(phaseTag(run.phase));
  say(at("state"), run.phase.reason || (run.phase.kind === "finished" ? "Everything is done." : `Waits for ${run.waiting.text}`));
  say(at("waiting"), run.phase.reason || run.phase.kind === "finished" ? "" : `for ${since(run.waiting.since_unix_ms, now)}`);
  at("facts").replaceChildren(el("span", {}, `submitted ${run.created_unix_ms ? moment(run.created_unix_ms) : "–"}`), el("span", {}, `${run.matches_judged} pairs judged`), el("span", {}, "spec ", fingerprint(run.spec_sha256)));
  const { progress, evaluation: held, probes } = run;
  const bars = run.steps_total ? [bar("steps", run.step, run.steps_total)] : [];
  if (progress) {
    bars.push(bar(`step ${progress.step}: sampled`, progress.samples, progress.samples_total), bar("judged", progress.groups_judged, progress.groups_total), bar("gradients", progress.shards, progress.shards_total));
  }
  if (held) bars.push(bar("held-out: base", held.base, held.prompts), bar("held-out: adapter", held.tuned, held.prompts), bar("held-out: compared", held.compared, held.prompts));
  if (held && held.questions) bars.push(bar("held-out: questions", held.questions.asked, held.questions.total));
  for (const probe of (probes || []).filter(({ compared, prompts }) => compared < prompts)) bars.push(bar(`probe of step ${probe.step}`, probe.painted + probe.compared, 2 * probe.prompts));
  at("bars").replaceChildren(...bars.flat());
  at("tiles").replaceChildren(...tiles(run));
  at("leases").replaceChildren(
    run.leases.length ? table("Units in work", ["unit", "worker", "for"], run.leases.map((lease) => [unitText(lease.unit), lease.worker, since(lease.granted_unix_ms, now)])) : el("p", { class: "dim" }, "Nothing is in work."),
  );
  at("adapter").hidden = !run.policy;
  say(at("report").querySelector("code"), `gavel report ${name} --connect ADDRESS --out DIR`);
}

function tile(label, value, about) {
  return el("div", { class: "card tile" }, el("dt", {}, label), el("dd", {}, value), el("dd", { class: "dim small" }, about));
}

function tiles(run) {
  const shown = [];
  const rated = (run.probes || []).findLast(({ win_rate: rate, compared, prompts }) => rate && compared === prompts);
  const [rate, of] = run.evaluation?.win_rate ? [run.evaluation.win_rate, "the adapter"] : rated ? [rated.win_rate, `the policy of step ${rated.step}`] : [null];
  if (rate) shown.push(tile("Win rate over the base", number(rate.value), `${of}, 95 % interval ${number(rate.low)} to ${number(rate.high)}, ${rate.prompts} prompts`));
  if (run.best) shown.push(tile("Best probe", `step ${run.best}`, "its policy is kept (--step best)"));
  const latest = run.steps[run.steps.length - 1];
  if (latest) {
    shown.push(tile("Pairs decided", percent(latest.decided / Math.max(1, latest.pairs)), `${latest.decided} of ${latest.pairs} in step ${latest.step}`));
    shown.push(tile("KL", number(latest.kl), "against the base"));
    shown.push(tile("Seconds a step", number(latest.seconds.wall), left(run, latest)));
  }
  if (run.asked) {
    const { once, twice, flipped, too_alike: tooAlike } = run.asked;
    const alike = tooAlike ? `; ${tooAlike} not asked, too alike` : "";
    shown.push(tile("Asked in one order", percent(once / Math.max(1, once + twice)), `${flipped} of ${twice} pairs asked in both flipped${alike}`));
  }
  if (run.judge && run.judge.judged) shown.push(tile("Judge", `${percent(run.judge.accuracy)} right`, `on ${run.judge.judged} labelled pairs; orders agree on ${percent(run.judge.order_consistency)}`));
  return shown;
}

function left(run, { seconds }) {
  const remaining = run.steps_total - run.step;
  return remaining > 0 && run.phase.kind === "training" ? `about ${since(0, 1000 * remaining * seconds.wall)} left` : "from commit to commit";
}

async function showSettings() {
  const { spec, rubric } = await get(runPath(name, "settings"));
  const own = rubric.of_prompts && `\n${rubric.of_prompts} ${rubric.of_prompts === 1 ? "prompt has a rubric of its own, which is" : "prompts have rubrics of their own, which are"} shown with the pairs.\n`;
  at("rubric").textContent = rubric.text + (own || "");
  const rows = Object.entries(spec).flatMap(([section, keys]) =>
    keys !== null && typeof keys === "object" && !Array.isArray(keys) ? Object.entries(keys).map(([key, value]) => [`${section}.${key}`, el("code", {}, JSON.stringify(value))]) : [[section, el("code", {}, JSON.stringify(keys))]],
  );
  at("settings").replaceChildren(table("Settings", ["key", "value"], rows));
}

let shownStep = null;
let shownJudged = null;
let shownHeldOut = null;
let shownEvents = null;

async function show(run) {
  banner.clear();
  showState(run);
  controls.show(run);
  try {
    await fetchSteps(run);
    if (shownStep !== `${run.step}/${JSON.stringify(run.probes)}`) {
      shownStep = `${run.step}/${JSON.stringify(run.probes)}`;
      showCharts([...figuresOfProbes(run.probes), ...figuresOfSteps(steps)]);
      at("zoom").hidden = !steps.length;
    }
    if (shownJudged !== `${run.step}/${run.matches_judged}`) {
      shownJudged = `${run.step}/${run.matches_judged}`;
      refreshPairs();
    }
    const held = JSON.stringify([run.evaluation, run.probes]);
    at("held-out").hidden = !run.evaluation;
    if (run.evaluation && shownHeldOut !== held) {
      shownHeldOut = held;
      refreshEvaluation();
    }
    const happened = JSON.stringify([run.phase, run.step, run.matches_judged, run.leases.map(({ fence }) => fence)]);
    if (shownEvents !== happened) {
      shownEvents = happened;
      refreshEvents();
    }
    document.body.dataset.ready = "yes";
  } catch (error) {
    banner.lost(error);
  }
}

// States may come while an earlier one is still being shown: of those that wait, the last counts.
let waiting = null;
let isShowing = false;

async function onState(run) {
  waiting = run;
  if (isShowing) return;
  isShowing = true;
  while (waiting) {
    const next = waiting;
    waiting = null;
    await show(next);
  }
  isShowing = false;
}

showSettings().catch((error) => banner.lost(error));
follow({ stream: runPath(name, "stream"), poll: runPath(name, "state"), onState, onTrouble: (error) => banner.lost(error), onEnd: (end) => banner.end(end) });
