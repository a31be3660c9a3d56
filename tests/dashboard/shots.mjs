// Takes the pictures of docs/operations.md: node tests/dashboard/shots.mjs HTTP RUN FOLDER
//
// HTTP is the address of a coordinator that serves RUN, for example a quickstart with evaluation.every = 2.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { openBrowser } from "./browser.mjs";

const [http, run, folder] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "gavel-shots-"));
const browser = openBrowser(profile);
const loaded = `document.body?.dataset.ready === "yes" && [...document.images].every((image) => image.complete)`;

/** Takes a page, or the first `height` pixels of the section with this heading. */
async function shoot(path, file, { height, section, ready = "true" }) {
  const page = await browser.openPage({ width: 1280, height });
  await page.own("Emulation.setScrollbarsHidden", { hidden: true });
  await page.go(`${http}${path}`);
  await page.until(`document.body?.dataset.ready === "yes" && ${ready}`);
  if (section) await page.evaluate(`document.getElementById("${section}").closest("section").scrollIntoView({ behavior: "instant" })`);
  await page.until("[...document.images].every((image) => image.complete || image.getBoundingClientRect().top > 2 * innerHeight)");
  await page.shoot(join(folder, file));
  await page.close();
}

const ready = "document.querySelectorAll('#charts canvas').length > 6 && document.querySelectorAll('#pairs .pair').length > 3";
await shoot("/", "dashboard.png", { height: 460 });
await shoot(`/runs/${run}`, "run-page.png", { height: 1660, ready });
await shoot(`/runs/${run}`, "pairs.png", { height: 1000, section: "pairs-title", ready });
await browser.close();
rmSync(profile, { recursive: true, force: true });
