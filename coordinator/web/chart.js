// A line chart with axes, values under the pointer and zoom by dragging, drawn by uPlot; and the same figures as a table.

import { el, number, table } from "./dom.js";

const HEIGHT = 170;
const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/** A value that is no number leaves a gap. */
const orGap = (value) => (Number.isFinite(value) ? value : null);

/**
 * A chart: `{ key, title, about, x, lines, range, stacked, joined, xName }`. `x` are numbers, and a line is `{ name, values, low, high }` of as many
 * values, with the ends of an interval around each where there is one. `range` fixes the y axis, `stacked` lines stand on one another, and
 * `joined` ones go on over values that are missing.
 */
export function createChart(figure) {
  const canvas = el("div", { class: "plot" });
  const latest = el("span", { class: "latest" });
  const numbers = el("details", {}, el("summary", {}, "Numbers"));
  const heading = el("h3", {}, figure.title, " ", latest);
  const node = el("figure", { class: "chart card" }, heading, el("p", { class: "dim about" }, figure.about), canvas, numbers);
  let shown = figure;
  let plot = null;

  function draw() {
    if (plot) plot.destroy();
    canvas.replaceChildren();
    plot = new uPlot(options(shown, canvas.clientWidth || 320), series(shown), canvas);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${shown.title}: ${spoken(shown)}. The numbers follow as a table.`);
  }

  function tell() {
    latest.textContent = shown.lines.length === 1 ? number(shown.lines[0].values.findLast(Number.isFinite)) : "";
    if (numbers.open) fillTable();
  }

  function fillTable() {
    const names = [shown.xName || "step"];
    for (const { name, low } of shown.lines) names.push(name, ...(low ? ["from", "to"] : []));
    const rows = shown.x.map((x, index) => [
      x,
      ...shown.lines.flatMap(({ values, low, high }) => [number(values[index]), ...(low ? [number(low[index]), number(high[index])] : [])]),
    ]);
    numbers.replaceChildren(numbers.firstChild, table(`${shown.title}, the numbers`, names, rows.reverse()));
  }

  numbers.addEventListener("toggle", () => numbers.open && fillTable());
  new ResizeObserver(() => plot && canvas.clientWidth && plot.setSize({ width: canvas.clientWidth, height: HEIGHT })).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot && draw());

  return {
    node,
    /** Shows other figures; whoever has zoomed stays there. */
    update(next) {
      const isSame = plot && next.lines.length === shown.lines.length && next.lines.every(({ name }, index) => name === shown.lines[index].name);
      shown = next;
      if (!isSame) draw();
      else {
        const all = plot.data[0];
        const { min, max } = plot.scales.x;
        const isZoomed = all.length > 1 && (min > all[0] || max < all[all.length - 1]);
        plot.setData(series(shown), !isZoomed);
        if (isZoomed) plot.redraw();
      }
      tell();
    },
    /** To be called once the chart is in the page and has a width. */
    draw() {
      draw();
      tell();
    },
  };
}

/** The columns that uPlot reads: x, then for each line its values and the ends of its intervals. */
function series({ x, lines, stacked }) {
  if (stacked) {
    const sums = x.map(() => 0);
    // The last line stands lowest: uPlot fills from each line down to zero, and what is drawn later lies above.
    const stack = [...lines].reverse().map(({ values }) => values.map((value, index) => (sums[index] += value || 0)));
    return [x, ...stack.reverse()];
  }
  return [x, ...lines.flatMap(({ values, low, high }) => [values.map(orGap), ...(low ? [low.map(orGap), high.map(orGap)] : [])])];
}

function options(figure, width) {
  const { lines, range, stacked, joined, xName } = figure;
  const ink = colour("--dim");
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: ink, grid, ticks: grid, font: "11px system-ui, sans-serif" };
  const all = [{ label: xName || "step" }];
  const bands = [];
  lines.forEach(({ name, low }, index) => {
    const stroke = colour(COLOURS[index % COLOURS.length]);
    const told = (plot, value, _, at) => number(stacked ? at == null ? null : lines[index].values[at] : value);
    all.push({ label: name, stroke, width: 1.8, value: told, fill: stacked && stroke, points: { size: 5 }, spanGaps: Boolean(joined) });
    if (low) {
      const edge = { stroke: "transparent", points: { show: false }, value: (_, value) => number(value) };
      all.push({ ...edge, label: "from" }, { ...edge, label: "to" });
      bands.push({ series: [all.length - 1, all.length - 2], fill: `${stroke}33` });
    }
  });
  return {
    width,
    height: HEIGHT,
    series: all,
    bands,
    scales: { x: { time: false }, y: { range: range ? () => range : stacked ? (_, low, high) => [0, high || 1] : undefined } },
    axes: [
      { ...axis, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
      { ...axis, size: 52, values: (_, values) => values.map(number) },
    ],
    cursor: { sync: { key: "steps" }, y: false, points: { size: 7 } },
    legend: { live: true },
  };
}

/** What a chart shows, for those who do not see it. */
function spoken({ x, lines, xName }) {
  if (!x.length) return "nothing yet";
  const line = ({ name, values }) => {
    const finite = values.filter(Number.isFinite);
    if (!finite.length) return `${name} has no figures`;
    return `${name} from ${number(Math.min(...finite))} to ${number(Math.max(...finite))}, last ${number(finite[finite.length - 1])}`;
  };
  return `${lines.map(line).join("; ")}, ${xName || "step"} ${x[0]} to ${x[x.length - 1]}`;
}

/** Charts side by side in `node`, which are made and updated as there are figures for them. */
export function createCharts(node) {
  const charts = new Map();
  return function show(figures) {
    for (const figure of figures) {
      const known = charts.get(figure.key);
      if (known) known.update(figure);
      else {
        const chart = createChart(figure);
        charts.set(figure.key, chart);
        node.append(chart.node);
        chart.draw();
      }
    }
    const wanted = new Set(figures.map(({ key }) => key));
    for (const [key, chart] of charts) {
      if (!wanted.has(key)) {
        chart.node.remove();
        charts.delete(key);
      }
    }
  };
}
