// The pairs that a report carries with it, asked as a coordinator is.

const OUTCOMES = {
  decided: (pair) => Boolean(pair.ranks),
  undecided: (pair) => !pair.ranks && !OUTCOMES.failed(pair),
  failed: (pair) => pair.verdicts.some(({ verdict }) => verdict.kind === "failed"),
  skipped: (pair) => Boolean(pair.skipped),
};

/** What `load` of a gallery is, over a list that is all there, as are the rubrics of its verdicts. */
export function pairsOf(list, rubrics) {
  return async function load({ step, prompt, outcome, winner, limit }, after) {
    const words = (prompt || "").toLowerCase();
    const found = list.filter(
      (pair) =>
        (!step || pair.step === Number(step)) &&
        pair.prompt.toLowerCase().includes(words) &&
        (!outcome || OUTCOMES[outcome](pair)) &&
        (!winner || (pair.ranks && pair.ranks[winner - 1] === 1)),
    );
    const from = after || 0;
    const to = from + limit;
    return { pairs: found.slice(from, to), rubrics, next: to < found.length ? to : null };
  };
}
