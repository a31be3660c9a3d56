// Looks at the dashboard with a real browser: node tests/dashboard/check.mjs GAVEL [AXE]
//
// A coordinator serves the run of tests/compatibility. AXE is axe.min.js of axe-core, which looks for what keeps people out who do not see
// or do not use a mouse. Every wait is for a condition.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { openBrowser } from "./browser.mjs";

const [gavel, axe] = process.argv.slice(2);
const RUN = "compatibility";
const place = mkdtempSync(join(tmpdir(), "gavel-dashboard-"));

/** A coordinator of the run; `http` is its address. */
async function serve({ data = join(place, "data"), http = "127.0.0.1:0", more = [] } = {}) {
  const child = spawn(gavel, ["coordinator", "--grpc", "127.0.0.1:0", "--http", http, "--data", data, ...more], { stdio: ["ignore", "pipe", "ignore"] });
  const [line] = await new Promise((told) => createInterface({ input: child.stdout }).once("line", (line) => told([line])));
  const addresses = JSON.parse(line);
  const ended = new Promise((told) => child.once("exit", told));
  return {
    grpc: addresses.grpc,
    http: addresses.http.replace(/\/$/, ""),
    async end(signal = "SIGTERM") {
      child.kill(signal);
      await ended;
    },
  };
}

const ready = 'document.body?.dataset.ready === "yes"';
const text = (selector) => `document.querySelector(${JSON.stringify(selector)}).innerText`;
const count = (selector) => `document.querySelectorAll(${JSON.stringify(selector)}).length`;
const click = (page, selector) => page.evaluate(`document.querySelector(${JSON.stringify(selector)}).click()`);
const button = (words) => `[...document.querySelectorAll("button")].find((button) => button.innerText === ${JSON.stringify(words)} && !button.hidden)`;

/** No complaint of the browser: no error, nothing that the policy kept from running, nothing that is not there. */
function quiet(page) {
  assert.deepEqual(page.complaints, []);
}

/** Nothing that keeps people out, as far as a program can tell. */
async function accessible(page, name) {
  if (!axe) return;
  await page.evaluate(readFileSync(axe, "utf8"));
  const violations = await page.evaluate(
    "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map(({ id, impact, nodes }) => `${id} (${impact}): ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 200)} ${failureSummary}`).slice(0, 3).join(' | ')}`))",
  );
  assert.deepEqual(violations, [], `axe on ${name}`);
}

const checks = [];
const check = (name, body) => checks.push([name, body]);

check("a run's page shows charts, pairs, events and settings, and finds what is asked for", async ({ browser, open }) => {
  const page = await browser.openPage();
  await page.go(`${open.http}/runs/${RUN}`);
  await page.until(`${ready} && ${count(".gallery .pair")} > 3`);
  assert.equal(await page.evaluate(text("h1")), RUN);
  await page.until(`${count("#charts .chart canvas")} >= 7`);
  await page.until(`[...document.querySelectorAll(".gallery img")].slice(0, 4).every((image) => image.complete && image.naturalWidth > 0)`);
  // Both orders' probabilities.
  assert.match(await page.evaluate(text(".gallery .pair .verdict")), /shown first[\s\S]*%[\s\S]*shown second[\s\S]*%/);
  await page.until(`${count("#events tbody tr")} > 5 && ${count("#settings tr")} > 20`);
  assert.ok((await page.evaluate("document.getElementById('rubric').textContent")).includes("- "));

  // A filter.
  const before = await page.evaluate(count("#pairs .pair"));
  await page.evaluate(`document.querySelector("[name=step]").focus()`);
  await page.type("1");
  await page.until(`${count("#pairs .pair")} < ${before} && [...document.querySelectorAll("#pairs .pair")].every((pair) => pair.innerText.includes("step 1,"))`);
  await page.evaluate(`(() => { const field = document.querySelector("[name=prompt]"); field.focus(); })()`);
  await page.type("no prompt has these words");
  await page.until(`${text("#pairs [role=status]")} === "No pair is like that."`);
  await page.evaluate(`${button("Clear")}.click()`);
  await page.until(`${count("#pairs .pair")} === ${before}`);

  // Values under the pointer, and zoom by dragging.
  const box = await page.evaluate(`(() => { const plot = document.querySelector("#charts .u-over"); plot.scrollIntoView({ block: "center", behavior: "instant" }); const { x, y, width, height } = plot.getBoundingClientRect(); return { x, y, width, height }; })()`);
  await page.mouse("mouseMoved", box.x + box.width - 5, box.y + box.height / 2, { button: "none" });
  await page.until(`/step:?\\s*2/.test(${text("#charts .u-legend")})`);
  await page.evaluate(`document.querySelector("#charts details").open = true`);
  await page.until(`${count("#charts details tbody tr")} === 2`);
  quiet(page);
  await accessible(page, "the page of a run");
  await page.close();
});

check("runs are listed with workers, and several are compared", async ({ browser, open }) => {
  execFileSync(gavel, ["fork", RUN, "--name", "fork", "--step", "1", "--set", "run.steps=9", "--connect", open.grpc]);
  const page = await browser.openPage();
  await page.go(`${open.http}/`);
  await page.until(`${ready} && ${count("#runs tbody tr")} === 2`);
  assert.ok((await page.evaluate(text("#workers"))).includes("None is registered"));
  for (const name of [RUN, "fork"]) await click(page, `input[value=${name}]`);
  await page.until(`${text("#compare a")} === "Compare 2 runs"`);
  await accessible(page, "the list of runs");
  await click(page, "#compare a");
  await page.until(`location.pathname === "/compare" && ${ready} && ${count("#charts canvas")} >= 5`);
  assert.match(await page.evaluate(text("#differences")), /run\.steps[\s\S]*4[\s\S]*9/);
  quiet(page);
  await accessible(page, "the comparison");
  await page.close();
});

check("a run is steered with the keyboard, and a refusal says what to do", async ({ browser, open }) => {
  const page = await browser.openPage();
  await page.go(`${open.http}/runs/${RUN}`);
  await page.until(`${ready} && ${button("Pause")}`);
  for (let tabs = 0; (await page.evaluate("document.activeElement.innerText")) !== "Pause"; tabs++) {
    assert.ok(tabs < 30, "the keyboard does not reach the button");
    await page.key("Tab");
  }
  assert.notEqual(await page.evaluate("getComputedStyle(document.activeElement).outlineStyle"), "none", "it is seen where one is");
  await page.key("Enter");
  await page.until("document.querySelector('dialog[open]')");
  await accessible(page, "the question before a pause");
  await page.key("Enter");
  await page.until(`!document.querySelector("dialog") && ${text("#phase")} === "paused"`);
  // The page heard of it over its stream.
  assert.equal(await page.evaluate(text("#state")), "from the dashboard");

  await page.evaluate(`${button("Roll back")}.click()`);
  await page.until("document.querySelector('dialog[open]')");
  await page.evaluate(`document.querySelector("dialog [name=step]").value = 2`);
  const complaints = page.complaints.length;
  await page.evaluate(`document.querySelector("dialog button[type=submit]").click()`);
  await page.until(`/there is none after it to take back/.test(${text("dialog [role=alert]")})`);
  // The browser notes the refusal, which is no fault of the page.
  assert.ok(page.complaints.splice(complaints).every((words) => words.includes("409")));
  await page.key("Escape");
  await page.until("!document.querySelector('dialog')");
  await page.evaluate(`${button("Resume")}.click()`);
  await page.until("document.querySelector('dialog[open]')");
  await page.evaluate(`document.querySelector("dialog button[type=submit]").click()`);
  await page.until(`${text("#phase")} === "training"`);
  quiet(page);
  await page.close();
});

check("a page outlives its coordinator and goes on with the next one", async ({ browser }) => {
  const data = join(place, "outlived");
  cpSync(`tests/compatibility/run/state`, data, { recursive: true });
  const first = await serve({ data });
  const page = await browser.openPage();
  await page.go(`${first.http}/runs/${RUN}`);
  await page.until(`${ready} && ${count("#charts canvas")} >= 7 && ${count("#pairs .pair")} > 3 && ${count("#events tbody tr")} > 5`);
  quiet(page);
  await first.end();
  await page.until(`${text(".banner")}.includes("The coordinator has ended before its runs")`);
  assert.ok((await page.evaluate(count("#charts canvas"))) >= 7, "what it knew is there");
  const second = await serve({ data, http: new URL(first.http).host });
  await page.until(`document.querySelector(".banner").hidden`);
  // One that is killed says nothing.
  await second.end("SIGKILL");
  await page.until(`${text(".banner")}.includes("No news since")`);
  const third = await serve({ data, http: new URL(first.http).host });
  await page.until(`document.querySelector(".banner").hidden`);
  await page.evaluate(`fetch("/api/v1/runs/${RUN}/pause", { method: "POST", headers: { "Content-Type": "application/json" }, body: '{"reason": "the third"}' })`);
  await page.until(`${text("#state")} === "the third"`);
  assert.ok(page.complaints.every((words) => /ERR_|network/.test(words)), page.complaints.join("\n"));
  await page.close();
  await third.end();
});

check("only who may steer gets buttons, and who is not logged in comes back to the page that was asked for", async ({ browser }) => {
  const data = join(place, "guarded");
  const tokens = join(place, "tokens.toml");
  cpSync(`tests/compatibility/run/state`, data, { recursive: true });
  const token = (role) => execFileSync(gavel, ["token", "new", "--role", role, "--name", role, "--tokens", tokens], { encoding: "utf8" }).trim();
  const [viewer, submitter] = [token("viewer"), token("submitter")];
  const coordinator = await serve({ data, more: ["--tokens", tokens] });
  const page = await browser.openPage();
  const logIn = async (shown) => {
    await page.go(`${coordinator.http}/runs/${RUN}`);
    await page.until(`document.getElementById("token")`);
    await accessible(page, "the form");
    await page.evaluate(`document.getElementById("token").focus()`);
    await page.type(shown);
    await page.key("Enter");
    await page.until(`location.pathname === "/runs/${RUN}" && ${ready}`);
  };
  await logIn(viewer);
  assert.ok((await page.evaluate(text("#session"))).includes("viewer"));
  assert.equal(await page.evaluate(count("#steer button")), 0);
  await page.evaluate(`document.querySelector("#session button").click()`);
  await page.until(`document.getElementById("token")`);
  await logIn(submitter);
  await page.evaluate(`${button("Pause")}.click()`);
  await page.until("document.querySelector('dialog[open]')");
  await page.evaluate(`document.querySelector("dialog button[type=submit]").click()`);
  await page.until(`${text("#phase")} === "paused"`);
  // The answer to whoever is not logged in is a form with the status 401.
  assert.ok(page.complaints.every((words) => words.includes("401")), page.complaints.join("\n"));
  await page.close();
  await coordinator.end();
});

check("report.html is one file with the same charts and gallery", async ({ browser, open }) => {
  const out = join(place, "report");
  execFileSync(gavel, ["report", RUN, "--connect", open.grpc, "--out", out]);
  const page = await browser.openPage();
  await page.go(`file://${join(out, "report.html")}`);
  await page.until(`${ready} && ${count("#charts canvas")} >= 7 && ${count("#pairs .pair")} > 3`);
  await page.until(`[...document.querySelectorAll("#pairs img")].slice(0, 4).every((image) => image.complete && image.naturalWidth > 0)`);
  const before = await page.evaluate(count("#pairs .pair"));
  await page.evaluate(`document.querySelector("[name=step]").focus()`);
  await page.type("1");
  await page.until(`${count("#pairs .pair")} < ${before}`);
  const asked = await page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name).filter((name) => !name.startsWith('data:'))");
  assert.deepEqual(asked, [], "it asks nobody for anything");
  quiet(page);
  await accessible(page, "the report");
  await page.close();
});

check("dark and narrow pages can be read too", async ({ browser, open }) => {
  const page = await browser.openPage({ width: 390, height: 800, dark: true });
  await page.go(`${open.http}/runs/${RUN}`);
  await page.until(`${ready} && ${count("#charts canvas")} >= 7`);
  const { wide, ground } = await page.evaluate(`({ wide: document.documentElement.scrollWidth > innerWidth, ground: getComputedStyle(document.body).backgroundColor })`);
  assert.equal(wide, false, "nothing sticks out");
  assert.equal(ground, "rgb(19, 20, 24)");
  await accessible(page, "the page of a run in the dark");
  await page.close();
});

cpSync(`tests/compatibility/run/state`, join(place, "data"), { recursive: true });
const open = await serve();
const browser = openBrowser(mkdtempSync(join(place, "profile-")));
let failed = 0;
try {
  for (const [name, body] of checks) {
    const began = Date.now();
    try {
      await body({ browser, open });
      console.log(`ok     ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}\n${error.stack}`);
    }
  }
} finally {
  await browser.close();
  await open.end();
  rmSync(place, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
