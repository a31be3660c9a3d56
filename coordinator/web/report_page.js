// `report.html`: the charts and the gallery of a run, from what the file carries with it.

import { createCharts } from "./chart.js";
import { figuresOfProbes, figuresOfSteps } from "./figures.js";
import { createGallery } from "./gallery.js";
import { pairsOf } from "./pairs_of_file.js";

const carried = JSON.parse(document.getElementById("data").textContent);

createCharts(document.getElementById("probe-charts"))(figuresOfProbes(carried.probes, carried.probes_base));
createCharts(document.getElementById("charts"))(figuresOfSteps(carried.steps));

if (carried.pairs.length) {
  const link = (sha256) => carried.pictures[sha256] && `data:image/png;base64,${carried.pictures[sha256]}`;
  createGallery(document.getElementById("pairs"), { load: pairsOf(carried.pairs, carried.rubrics), link }).refresh();
}
document.body.dataset.ready = "yes";
