// Charts by Chart.js (a global of static/chart.js). Each has its numbers as a table beside it, and is drawn anew only for new numbers.

import {count, fillRows, isNumber, make, measured, NONE, number, setHidden, setText, shortened, table} from "./dom.js";

const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [], [7, 4]];
const POINTS = ["circle", "rect", "triangle", "rectRot", "star", "crossRot"];
const CHARACTER_PX = 8;
const all = new Set();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const chart of all) chart.redraw(); });

class Card {
  // `remove()` is called when a person no longer wants the chart; without it there is no button for that.
  constructor(title, {low = false, heading = "h3", description = null, remove = null} = {}) {
    this.title = title;
    this.heading = make(heading, {}, title);
    this.canvas = make("canvas", {role: "img"});
    this.plot = make("div", {class: low ? "plot low" : "plot"}, this.canvas);
    this.empty = make("p", {class: "soft"}, "Nothing recorded yet.");
    this.rows = make("details", {on: {toggle: () => this.fill()}}, make("summary", {class: "small"}, "Numbers"));
    this.node = make("figure", {class: "card"}, make("figcaption", {}, remove ? make("button", {class: "remove", "aria-label": "Remove " + title, on: {click: remove}}, "\u00d7") : null, this.heading, description ? make("p", {class: "soft small"}, description) : null),
      this.plot, this.empty, this.rows);
    this.data = null;
    this.known = "";
    this.chart = null;
    all.add(this);
  }

  // Draws only what is new.
  show(data) {
    const known = JSON.stringify(data);
    if (known === this.known) return;
    this.known = known;
    this.data = data;
    const some = this.any();
    for (const [node, hidden] of [[this.plot, !some], [this.rows, !some], [this.empty, some]]) setHidden(node, hidden);
    if (!some) { this.erase(); return; }
    this.canvas.setAttribute("aria-label", this.title + ". " + this.says());
    if (!globalThis.Chart) { this.plot.hidden = true; this.rows.open = true; }
    else if (this.chart && this.fits()) { this.put(); this.chart.update("none"); }
    else this.redraw();
    this.fill();
  }

  redraw() {
    if (!this.data || !this.any() || !globalThis.Chart) return;
    this.erase();
    this.chart = new globalThis.Chart(this.canvas, this.config());
  }

  erase() {
    this.chart?.destroy();
    this.chart = null;
  }

  gone() {
    this.erase();
    all.delete(this);
  }

  fill() {
    if (!this.rows.open || this.filled === this.known) return;
    this.filled = this.known;
    const {heads, rows} = this.numbers();
    const made = table(this.title, heads);
    fillRows(made.body, rows);
    this.rows.replaceChildren(this.rows.firstChild, made.node);
  }

  axes(x, y) {
    const ticks = {color: colour("soft"), maxRotation: 0, autoSkipPadding: 14};
    return {
      x: {grid: {display: false}, border: {color: colour("edge")}, ...x, ticks: {...ticks, ...x.ticks}, title: {display: true, text: x.text, color: colour("soft")}},
      y: {grid: {color: colour("rule")}, border: {display: false}, ...y, ticks: {...ticks, maxTicksLimit: 6, ...y.ticks}},
    };
  }
}

// A legend or a tooltip is cut at the edge of its chart.
const fitting = (text, chart) => shortened(text, Math.max(16, Math.floor(chart.width / CHARACTER_PX) - 6));

// Which ticks of a logarithmic axis are labelled: powers of ten; within two decades 2 and 5 times them too.
function isRound(value, ticks) {
  const decades = Math.log10(ticks.at(-1).value / ticks[0].value);
  const digits = value / 10 ** Math.floor(Math.log10(value) + 1e-9);
  return (decades < 2 ? [1, 2, 5] : [1]).some((one) => Math.abs(digits - one) < 1e-6);
}

// Lines over train steps. Data: {lines: [{label, steps, values}], high, whole, logarithmic}; `high` 1 is for shares, `whole` for counts.
export class Lines extends Card {
  any() {
    return this.data.lines.some((line) => line.values.some(isNumber));
  }

  fits() {
    return this.chart.data.datasets.map((one) => one.label).join("\n") === this.data.lines.map((line) => line.label).join("\n");
  }

  datasets() {
    return this.data.lines.map((line, i) => ({
      label: line.label,
      data: line.steps.map((step, k) => ({x: step, y: line.values[k]})).filter((point) => isNumber(point.y)),
      borderColor: colour("c" + (i % 6)), backgroundColor: colour("c" + (i % 6)), borderDash: DASHES[i % 6], pointStyle: POINTS[i % 6],
      borderWidth: 2, pointRadius: line.steps.length > 30 ? 0 : 3, pointHitRadius: 6,
    }));
  }

  put() {
    this.datasets().forEach((wanted, i) => { Object.assign(this.chart.data.datasets[i], {data: wanted.data, pointRadius: wanted.pointRadius}); });
  }

  config() {
    const {high, whole, logarithmic} = this.data;
    const y = logarithmic ? {type: "logarithmic", ticks: {autoSkip: false, callback: (value, i, all) => (isRound(value, all) ? number(value) : null)}}
      : {suggestedMin: 0, suggestedMax: high, ticks: {...(high === 1 ? {stepSize: 0.5} : {}), ...(whole ? {precision: 0} : {})}};
    return {
      type: "line",
      data: {datasets: this.datasets()},
      options: {
        animation: false, maintainAspectRatio: false, parsing: false, normalized: true, interaction: {mode: "nearest", axis: "x", intersect: false},
        plugins: {
          legend: {display: this.data.lines.length > 1, position: "bottom", labels: {color: colour("ink"), usePointStyle: true, boxHeight: 7,
            generateLabels: (chart) => globalThis.Chart.defaults.plugins.legend.labels.generateLabels(chart).map((one) => ({...one, text: fitting(one.text, chart)}))}},
          tooltip: {callbacks: {title: (items) => "train step " + items[0].parsed.x, label: (item) => fitting(item.dataset.label, item.chart) + ": " + measured(item.parsed.y)}},
        },
        scales: this.axes({type: "linear", text: "train step", ticks: {precision: 0}}, y),
      },
    };
  }

  says() {
    return this.data.lines.map((line) => {
      const last = line.values.findLastIndex(isNumber);
      return last < 0 ? line.label + ": nothing" : `${line.label}: ${measured(line.values[last])} at train step ${line.steps[last]}`;
    }).join("; ");
  }

  numbers() {
    const steps = [...new Set(this.data.lines.flatMap((line) => line.steps))].sort((a, b) => b - a);
    const known = this.data.lines.map((line) => new Map(line.steps.map((step, k) => [step, line.values[k]])));
    return {heads: ["train step", ...this.data.lines.map((line) => line.label)],
      rows: steps.map((step) => [String(step), ...known.map((values) => (values.has(step) ? measured(values.get(step)) : NONE))])};
  }
}

// Bars, one per reasoning step. Data: {bars: [{label, value}], of, diverging, low, high}; `chosen(i)` is called for a bar that is clicked.
export class Bars extends Card {
  constructor(title, chosen) {
    super(title, {low: true, heading: "h4"});
    this.chosen = chosen;
  }

  any() {
    return this.data.bars.some((bar) => isNumber(bar.value));
  }

  fits() {
    return this.chart.data.labels.length === this.data.bars.length;
  }

  colours() {
    return this.data.bars.map((bar) => colour(this.data.diverging ? (bar.value < 0 ? "c1" : "c0") : "c3"));
  }

  put() {
    this.chart.data.labels = this.data.bars.map((_, i) => i + 1);
    Object.assign(this.chart.data.datasets[0], {data: this.data.bars.map((bar) => bar.value), backgroundColor: this.colours(), label: this.data.of});
    Object.assign(this.chart.options.scales.y, {suggestedMin: this.data.low, suggestedMax: this.data.high});
  }

  config() {
    return {
      type: "bar",
      data: {labels: this.data.bars.map((_, i) => i + 1), datasets: [{label: this.data.of, data: this.data.bars.map((bar) => bar.value), backgroundColor: this.colours()}]},
      options: {
        animation: false, maintainAspectRatio: false, interaction: {mode: "nearest", axis: "x", intersect: false},
        onClick: (_, found) => { if (found.length) this.chosen(found[0].index); },
        plugins: {legend: {display: false}, tooltip: {callbacks: {
          title: (items) => "reasoning step " + items[0].label,
          label: (item) => `${this.data.of}: ${number(item.parsed.y)}`,
          afterLabel: (item) => fitting(this.data.bars[item.dataIndex].label, item.chart),
        }}},
        scales: this.axes({text: "reasoning step"}, {suggestedMin: this.data.low, suggestedMax: this.data.high, ticks: {autoSkip: false, maxTicksLimit: 5, callback: (value) => number(value)}}),
      },
    };
  }

  says() {
    const lowest = this.data.bars.reduce((best, bar, i) => (isNumber(bar.value) && bar.value < this.data.bars[best].value ? i : best), 0);
    return `${count(this.data.bars.length, "reasoning step")}; the lowest is step ${lowest + 1}, ${number(this.data.bars[lowest].value)}`;
  }

  numbers() {
    return {heads: ["reasoning step", this.data.of], rows: this.data.bars.map((bar, i) => [`${i + 1}: ${bar.label.slice(0, 60)}`, number(bar.value, 4)])};
  }

  rename(title) {
    this.title = title;
    setText(this.heading, title);
  }
}
