// Which figures of a run are drawn.

/** What a step's record is drawn as; `when` says of which runs. */
const OF_STEPS = [
  ["decided", "Pairs decided", "share of a step's pairs on which both image orders agree", (step) => step.decided / Math.max(1, step.pairs), { range: [0, 1] }],
  ["order_consistency", "Orders agree", "share of pairs judged in both image orders whose orders gave the same side", (step) => step.order_consistency, { range: [0, 1] }],
  ["asked_once", "Asked in one order", "share of the asked pairs that one image order was enough for", (step) => share(step.asked?.once, step.asked?.once + step.asked?.twice), { range: [0, 1], when: (steps) => steps.some((step) => step.asked?.once) }],
  ["too_alike", "Too alike", "share of pairs that the judge was not asked about", (step) => share(step.asked?.too_alike, step.asked?.once + step.asked?.twice + step.asked?.too_alike), { range: [0, 1], when: (steps) => steps.some((step) => step.asked?.too_alike) }],
  ["kl", "KL", "mean estimate against the base, per trained term", (step) => step.kl],
  ["diversity", "Diversity", "how far apart the pictures of one prompt are", (step) => step.diversity, { when: (steps) => steps.some((step) => step.diversity != null) }],
  ["score", "Score", "mean score that the judge gave the candidates", (step) => step.score, { when: (steps) => steps.some((step) => step.score != null) }],
  ["held_out_score", "Held-out score", "the same of the held-out judge, which rewards nothing", (step) => step.held_out_score, { when: (steps) => steps.some((step) => step.held_out_score != null) }],
  ["held_out_agreement", "Held-out agreement", "share of pairs on which the held-out judge prefers what the judge prefers", (step) => step.held_out_agreement, { range: [0, 1], when: (steps) => steps.some((step) => step.held_out_agreement != null) }],
  // Without a policy lag the ratio is 1 and nothing is clipped: a line at 0 says nothing.
  ["clip_fraction", "Clip fraction", "share of terms whose ratio was clipped", (step) => step.clip_fraction, { when: (steps) => steps.some((step) => step.clip_fraction > 0) }],
  ["ratio_deviation", "Ratio deviation", "largest |ratio − 1|", (step) => step.ratio_deviation],
  ["grad_norm", "Gradient norm", "before clipping", (step) => step.grad_norm],
  ["learning_rate", "Learning rate", "of the update", (step) => step.learning_rate],
];

/** A share; nothing where nothing was counted. */
function share(part, of) {
  return of > 0 ? part / of : undefined;
}

const STAGES = ["sample", "judge", "train", "commit"];

/** The charts of one run's steps. */
export function figuresOfSteps(steps) {
  if (!steps.length) return [];
  const x = steps.map(({ step }) => step);
  const drawn = OF_STEPS.filter(([, , , , { when } = {}]) => !when || when(steps));
  const figures = drawn.map(([key, title, about, of, { range } = {}]) => ({ key, title, about, x, range, lines: [{ name: title, values: steps.map(of) }] }));
  figures.push(
    {
      key: "stages",
      title: "Seconds by stage",
      about: "summed over the workers that were at it",
      x,
      stacked: true,
      lines: STAGES.map((name) => ({ name, values: steps.map(({ seconds }) => seconds[name]) })),
    },
    { key: "wall", title: "Seconds from commit to commit", about: "on the coordinator's clock", x, lines: [{ name: "seconds", values: steps.map(({ seconds }) => seconds.wall) }] },
  );
  return figures;
}

/** The win rate of the probes that are judged to the end; none without such. `scores` are the evaluator's, where it has looked. */
export function figuresOfProbes(probes, scoreOfBase) {
  const rated = (probes || []).filter(({ win_rate: rate, compared, prompts }) => rate && compared === prompts);
  const figures = [];
  if (rated.length) {
    figures.push({
      key: "win_rate",
      title: "Win rate over the base",
      about: `on ${rated[0].prompts} held-out prompts, by the judge, with its 95 % interval`,
      x: rated.map(({ step }) => step),
      range: [0, 1],
      lines: [{ name: "win rate", values: rated.map((probe) => probe.win_rate.value), low: rated.map((probe) => probe.win_rate.low), high: rated.map((probe) => probe.win_rate.high) }],
    });
  }
  const scored = (probes || []).filter(({ score }) => score != null);
  if (scored.length) {
    const base = scoreOfBase == null ? [] : [{ step: 0, score: scoreOfBase }];
    const all = [...base, ...scored];
    figures.push({
      key: "score",
      title: "Score",
      about: "mean share of facts that hold, by the evaluator, which the judge does not use; step 0 is the base",
      x: all.map(({ step }) => step),
      range: [0, 1],
      lines: [{ name: "score", values: all.map(({ score }) => score) }],
    });
  }
  return figures;
}

/** The same figure of several runs in one chart: `runs` are `{ name, steps, probes }`. */
export function figuresOfRuns(runs) {
  const byKey = new Map();
  for (const { name, steps, probes } of runs) {
    for (const figure of [...figuresOfProbes(probes), ...figuresOfSteps(steps)]) {
      if (figure.stacked) continue;
      const known = byKey.get(figure.key) || { ...figure, parts: [] };
      known.parts.push({ name, x: figure.x, values: figure.lines[0].values });
      byKey.set(figure.key, known);
    }
  }
  return [...byKey.values()].map(({ parts, ...figure }) => {
    const x = [...new Set(parts.flatMap((part) => part.x))].sort((a, b) => a - b);
    const lines = parts.map(({ name, x: own, values }) => {
      const at = new Map(own.map((step, index) => [step, values[index]]));
      return { name, values: x.map((step) => at.get(step) ?? null) };
    });
    return { ...figure, x, lines, joined: true };
  });
}
