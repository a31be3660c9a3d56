// `report.html`: the charts and the gallery of a run, from what the file carries with it.

import { createCharts } from "./chart.js";
import { figuresOfProbes, figuresOfSteps } from "./figures.js";
import { createGallery } from "./gallery.js";
import { pairsOf } from "./pairs_of_file.js";
import { themesOf } from "./verdict.js";

const { steps, probes, probes_base: base, pairs, pictures, rubric } = JSON.parse(document.getElementById("data").textContent);

const showProbes = createCharts(document.getElementById("probe-charts"));
showProbes(figuresOfProbes(probes, base));
const showSteps = createCharts(document.getElementById("charts"));
showSteps(figuresOfSteps(steps));

const themes = themesOf(rubric);
const link = (sha256) => pictures[sha256] && `data:image/png;base64,${pictures[sha256]}`;
if (pairs.length) createGallery(document.getElementById("pairs"), { load: pairsOf(pairs), link, themes: () => themes }).refresh();
document.body.dataset.ready = "yes";
