// What the dashboard's modules compute, without a browser.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

/** A module of coordinator/web that imports nothing which needs a page. */
async function load(name) {
  const text = readFileSync(new URL(`../../coordinator/web/${name}`, import.meta.url), "utf8");
  const alone = text.replace(/^import .*$/gm, "");
  return import(`data:text/javascript,${encodeURIComponent(alone)}`);
}

test("a merge patch is applied as RFC 7386 says", async () => {
  const { applyMergePatch } = await load("merge_patch.js");
  // The examples of its appendix A.
  for (const [target, patch, result] of [
    [{ a: "b" }, { a: "c" }, { a: "c" }],
    [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }],
    [{ a: "b" }, { a: null }, {}],
    [{ a: "b", b: "c" }, { a: null }, { b: "c" }],
    [{ a: ["b"] }, { a: "c" }, { a: "c" }],
    [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }],
    [{ a: [{ b: "c" }] }, { a: [1] }, { a: [1] }],
    [["a", "b"], ["c", "d"], ["c", "d"]],
    [{ a: "foo" }, null, null],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [[1, 2], { a: "b", c: null }, { a: "b" }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ]) {
    assert.deepEqual(applyMergePatch(target, patch), result);
  }
});

test("several runs come into one chart by their steps", async () => {
  const { figuresOfRuns } = await load("figures.js");
  const step = (step, kl) => ({ step, pairs: 4, decided: 2, order_consistency: 1, kl, clip_fraction: 0, ratio_deviation: 0, grad_norm: 1, learning_rate: 1, seconds: { sample: 1, judge: 1, train: 1, commit: 1, wall: 4 } });
  const rate = { value: 0.5, low: 0.2, high: 0.8 };
  const probes = [{ step: 2, prompts: 4, compared: 4, win_rate: rate }, { step: 3, prompts: 4, compared: 1, win_rate: rate }];
  const figures = figuresOfRuns([{ name: "a", steps: [step(1, 0.1), step(2, 0.2)], probes }, { name: "b", steps: [step(1, 0.3)] }]);
  const kl = figures.find(({ key }) => key === "kl");
  assert.deepEqual([kl.x, kl.lines], [[1, 2], [{ name: "a", values: [0.1, 0.2] }, { name: "b", values: [0.3, null] }]]);
  const rated = figures.find(({ key }) => key === "win_rate");
  assert.deepEqual(rated.lines, [{ name: "a", values: [0.5] }], "a probe that is not judged to the end is none");
  assert.ok(!figures.some(({ key }) => key === "clip_fraction"), "what is always 0 is not drawn");
});

test("how pairs were asked is drawn of runs that spare their judge questions", async () => {
  const { figuresOfSteps } = await load("figures.js");
  const step = (step, asked) => ({ step, pairs: 4, decided: 2, order_consistency: 1, asked, seconds: { wall: 4 } });
  const keys = (steps) => figuresOfSteps(steps).map(({ key }) => key);
  assert.ok(!keys([step(1), step(2)]).some((key) => key === "asked_once" || key === "too_alike"));
  const steps = [step(1, { once: 0, twice: 4, flipped: 1, too_alike: 0 }), step(2, { once: 3, twice: 1, flipped: 0, too_alike: 0 }), step(3, { once: 0, twice: 0, flipped: 0, too_alike: 0 })];
  const figure = figuresOfSteps(steps).find(({ key }) => key === "asked_once");
  assert.deepEqual(figure.lines[0].values, [0, 0.75, undefined]);
  assert.ok(!keys(steps).includes("too_alike"), "what is always 0 is not drawn");
});

test("a rubric's lines are found by their theme", async () => {
  const { themesOf } = await load("verdict.js");
  const themes = themesOf("Content\n- All objects.\n- No others.\n\nStyle\n- As asked.\n\n- Without a name.\n");
  assert.deepEqual([...themes], [["Content", ["All objects.", "No others."]], ["Style", ["As asked."]], ["", ["Without a name."]]]);
});

test("the pairs of a file are asked as those of a coordinator", async () => {
  const { pairsOf } = await load("pairs_of_file.js");
  const pair = (step, prompt, ranks, kind = "preferred", skipped = null) => ({ step, prompt, ranks, skipped, verdicts: [{ verdict: { kind } }] });
  const load_ = pairsOf([pair(2, "A red Square", [1, 2]), pair(2, "a circle", null, "abstain"), pair(1, "a square", [2, 1], "preferred", "not finite"), pair(1, "a square", null, "failed")], { abc: { text: "- Sharp.\n", of_prompt: true } });
  const found = async (filter) => (await load_({ limit: 10, ...filter })).pairs.length;
  assert.deepEqual(await Promise.all([{}, { step: "2" }, { prompt: "SQUARE" }, { winner: "1" }, { winner: "2" }].map(found)), [4, 2, 3, 1, 1]);
  assert.deepEqual(await Promise.all(["decided", "undecided", "failed", "skipped"].map((outcome) => found({ outcome }))), [2, 1, 1, 1]);
  const first = await load_({ limit: 3 });
  assert.equal(first.rubrics.abc.text, "- Sharp.\n");
  assert.deepEqual([first.pairs.length, (await load_({ limit: 3 }, first.next)).pairs.length], [3, 1]);
});
