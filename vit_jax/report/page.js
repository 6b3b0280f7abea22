// Draws the panels of a report from the data in the page. No library, no network.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const view = { axis: "step", smoothing: 0, log: false, hidden: new Set() };
const charts = [];
const margin = { left: 50, right: 12, top: 10, bottom: 22 };
const tip = document.getElementById("tip");

function element(kind, attributes, parent, text) {
  const svg = ["svg", "path", "line", "text", "circle", "g"].includes(kind);
  const made = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", kind)
    : document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

// The index of the value closest to x in sorted values.
function nearest(values, x) {
  let low = 0, high = values.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle; else high = middle;
  }
  return Math.abs(values[high] - x) < Math.abs(values[low] - x) ? high : low;
}

// Seconds of work at a step; between two logged steps a straight line.
function seconds(run, step) {
  const { steps, seconds: times } = data.runs[run].clock;
  if (!steps.length) return null;
  let right = steps.findIndex((known) => known >= step);
  if (right < 0) return times[times.length - 1];
  if (right === 0) {
    return steps[0] ? times[0] * Math.min(1, step / steps[0]) : times[0];
  }
  const part = (step - steps[right - 1]) / (steps[right] - steps[right - 1]);
  return times[right - 1] + part * (times[right] - times[right - 1]);
}

function position(run, step) {
  if (view.axis === "epoch") {
    return data.runs[run].epoch ? step / data.runs[run].epoch : null;
  }
  return view.axis === "time" ? seconds(run, step) : step;
}

// A moving average that gives the first values no special weight; gaps stay gaps.
function smoothed(values) {
  let sum = 0, weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = view.smoothing * sum + (1 - view.smoothing) * value;
    weight = view.smoothing * weight + 1 - view.smoothing;
    return sum / weight;
  });
}

function short(value) {
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return `${+(value / unit).toPrecision(3)}${letter}`;
  }
  if (size && size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return `${+value.toPrecision(4)}`;
}

function shownValue(panel, value) {
  if (value === null) return "not finite";
  if (panel.percent) return `${(100 * value).toFixed(2)} %`;
  const size = Math.abs(value);
  if (size >= 1e4) return Math.round(value).toLocaleString("en");
  return size && size < 1e-3 ? value.toExponential(3) : `${+value.toPrecision(5)}`;
}

function shownX(x) {
  if (view.axis === "epoch") return `${+x.toFixed(2)}`;
  if (view.axis === "step") return short(Math.round(x));
  if (x >= 7200) return `${+(x / 3600).toFixed(2)} h`;
  return x >= 120 ? `${+(x / 60).toFixed(1)} min` : `${+x.toFixed(1)} s`;
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    found.push(+(i * step).toPrecision(12));
  }
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let e = Math.floor(low); e <= Math.ceil(high); e++) {
    for (const n of high - low < 1.5 ? [1, 2, 5] : [1]) {
      const value = e + Math.log10(n);
      if (value >= low - 1e-9 && value <= high + 1e-9) found.push(value);
    }
  }
  return found.length > 1 ? found : [low, high];
}

// What a panel shows now: lines with their places, and the ranges of both axes.
function lines(panel) {
  const found = [];
  for (const line of panel.lines) {
    if (view.hidden.has(line.run)) continue;
    const x = [], y = [], step = [];
    line.x.forEach((at, index) => {
      const place = position(line.run, at);
      if (place === null) return;
      x.push(place); y.push(line.y[index]); step.push(at);
    });
    if (!x.length) continue;
    const smooth = panel.smooth && view.smoothing > 0;
    found.push({ run: line.run, x, raw: y, step, y: smooth ? smoothed(y) : y, smooth });
  }
  return found;
}

function range(panel, shown, log) {
  let low = Infinity, high = -Infinity, first = Infinity, last = -Infinity;
  for (const line of shown) {
    first = Math.min(first, line.x[0]);
    last = Math.max(last, line.x[line.x.length - 1]);
    for (const value of line.raw) {
      if (value === null || (log && value <= 0)) continue;
      const place = log ? Math.log10(value) : value;
      low = Math.min(low, place); high = Math.max(high, place);
    }
  }
  if (low === Infinity) [low, high] = [0, 1];
  if (panel.zero && !log) { low = Math.min(0, low); }
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  return {
    low: panel.zero && !log && low === 0 ? 0 : low - pad, high: high + pad,
    first: Math.min(first, 0), last: last > first || last > 0 ? last : first + 1,
  };
}

function draw(chart) {
  const { panel, svg } = chart;
  const width = svg.clientWidth, height = svg.clientHeight;
  if (!width) return;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const log = view.log && panel.lines.every((l) => l.y.every((v) => v === null || v > 0));
  const shown = lines(panel);
  chart.shown = shown;
  const r = range(panel, shown, log);
  const inner = width - margin.left - margin.right;
  const X = (x) => margin.left + ((x - r.first) / (r.last - r.first)) * inner;
  const deep = height - margin.top - margin.bottom;
  const Y = (y) => margin.top + (1 - ((log ? Math.log10(y) : y) - r.low) / (r.high - r.low)) * deep;
  Object.assign(chart, { X, Y, r, inner });

  for (const tick of log ? logTicks(r.low, r.high) : ticks(r.low, r.high, 5)) {
    const value = log ? 10 ** tick : tick, y = Y(value);
    element("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y, y2: y }, svg);
    const text = panel.percent ? `${+(100 * value).toFixed(2)} %` : short(value);
    element("text", { class: "tick", x: margin.left - 6, y: y + 4, "text-anchor": "end" }, svg, text);
  }
  for (const tick of ticks(r.first, r.last, Math.max(2, Math.floor(inner / 60)))) {
    element("text", { class: "tick", x: X(tick), y: height - 6, "text-anchor": "middle" }, svg, shownX(tick));
  }
  for (const line of shown) {
    const style = `curve c${line.run % 10} dash${Math.floor(line.run / 10) % 3}`;
    if (line.smooth) element("path", { class: `${style} raw`, d: path(line.x, line.raw, X, Y, log) }, svg);
    element("path", { class: style, d: path(line.x, line.y, X, Y, log) }, svg);
    if (line.x.length === 1 || (line.x.length <= 40 && !panel.name.startsWith("train/"))) {
      line.x.forEach((x, index) => {
        const y = line.y[index];
        if (y !== null && !(log && y <= 0)) {
          element("circle", { class: `point c${line.run % 10}`, cx: X(x), cy: Y(y), r: 3 }, svg);
        }
      });
    }
  }
  chart.guide = element("line", { class: "guide", y1: margin.top, y2: height - margin.bottom, visibility: "hidden" }, svg);
  chart.marks = element("g", {}, svg);
}

// Gaps break the line; a value between two gaps is a dot of zero length.
function path(x, y, X, Y, log) {
  let text = "", open = false;
  for (let index = 0; index < x.length; index++) {
    if (y[index] === null || (log && y[index] <= 0)) { open = false; continue; }
    const place = `${X(x[index]).toFixed(1)} ${Y(y[index]).toFixed(1)}`;
    text += open ? `L${place}` : `M${place}h0`;
    open = true;
  }
  return text;
}

function hover(chart, event) {
  const box = chart.svg.getBoundingClientRect();
  const part = (event.clientX - box.left - margin.left) / chart.inner;
  const x = chart.r.first + Math.min(1, Math.max(0, part)) * (chart.r.last - chart.r.first);
  point(chart, x);
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const above = event.clientY + 18 + tip.offsetHeight > innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above ? Math.max(8, event.clientY - tip.offsetHeight - 14) : event.clientY + 18}px`;
}

// The guide at x in every panel, and the values of every run in one.
function point(chart, x) {
  for (const other of charts) {
    if (!other.guide) continue;
    const inside = x >= other.r.first && x <= other.r.last;
    other.guide.setAttribute("visibility", inside ? "visible" : "hidden");
    if (inside) for (const end of ["x1", "x2"]) other.guide.setAttribute(end, other.X(x));
  }
  chart.marks.replaceChildren();
  tip.replaceChildren();
  element("b", {}, tip, chart.panel.title);
  const place = view.axis === "step" ? Math.round(x).toLocaleString("en") : shownX(x);
  element("small", { class: "faint" }, tip, `${view.axis} ${place}`);
  for (const line of chart.shown) {
    const index = nearest(line.x, x), value = line.y[index];
    const row = element("div", {}, tip);
    element("span", { class: `dot c${line.run % 10}` }, row);
    const at = view.axis === "step" ? "" : ` at step ${line.step[index].toLocaleString("en")}`;
    const here = view.axis === "step" && line.step[index] !== Math.round(x) ? ` at ${line.step[index].toLocaleString("en")}` : at;
    element("span", {}, row, data.runs[line.run].name + here);
    const raw = line.smooth && value !== null ? ` (${shownValue(chart.panel, line.raw[index])})` : "";
    element("span", {}, row, shownValue(chart.panel, value) + raw);
    if (value !== null && chart.Y(value) >= 0) {
      element("circle", { class: `point c${line.run % 10}`, cx: chart.X(line.x[index]), cy: chart.Y(value), r: 4 }, chart.marks);
    }
  }
  tip.hidden = false;
}

function leave(chart) {
  tip.hidden = true;
  for (const other of charts) if (other.guide) other.guide.setAttribute("visibility", "hidden");
  chart.marks.replaceChildren();
  chart.at = undefined;
}

// Arrow keys move the guide, for those who use no pointer.
function key(chart, event) {
  if (event.key === "Escape") return leave(chart);
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  event.preventDefault();
  const { first, last } = chart.r, move = (last - first) / 50;
  const from = chart.at === undefined ? last : chart.at;
  chart.at = Math.min(last, Math.max(first, from + (event.key === "ArrowLeft" ? -move : move)));
  point(chart, chart.at);
  const box = chart.svg.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(box.left + chart.X(chart.at) + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, box.top + 20)}px`;
}

function drawAll() {
  tip.hidden = true;
  charts.forEach(draw);
}

function build() {
  const place = document.getElementById("charts");
  for (const group of data.groups) {
    element("h3", {}, place, group.title);
    const panels = element("div", { class: "panels" }, place);
    for (const panel of group.panels) {
      const figure = element("figure", { class: "panel", tabindex: "0", "data-name": panel.name }, panels);
      element("figcaption", {}, figure, panel.title);
      const svg = element("svg", { role: "img", "aria-label": `${panel.title} by ${view.axis}` }, figure);
      const chart = { panel, svg };
      charts.push(chart);
      svg.addEventListener("pointermove", (event) => hover(chart, event));
      svg.addEventListener("pointerdown", (event) => hover(chart, event));
      svg.addEventListener("pointerleave", () => leave(chart));
      figure.addEventListener("keydown", (event) => key(chart, event));
      figure.addEventListener("blur", () => leave(chart));
    }
  }
}

function controls() {
  const legend = document.getElementById("legend");
  data.runs.forEach((run, index) => {
    const button = element("button", { type: "button", "aria-pressed": "true" }, legend);
    element("span", { class: `dot c${index % 10}` }, button);
    button.append(run.name);
    button.addEventListener("click", () => {
      const hide = !view.hidden.has(index);
      if (hide) view.hidden.add(index); else view.hidden.delete(index);
      button.setAttribute("aria-pressed", String(!hide));
      drawAll();
    });
  });
  const axis = document.getElementById("axis");
  for (const option of axis.options) {
    option.disabled = (option.value === "epoch" && !data.runs.some((run) => run.epoch))
      || (option.value === "time" && !data.runs.some((run) => run.clock.steps.length));
  }
  axis.addEventListener("change", () => { view.axis = axis.value; drawAll(); });
  const smoothing = document.getElementById("smoothing");
  smoothing.addEventListener("input", () => { view.smoothing = +smoothing.value; drawAll(); });
  const log = document.getElementById("log");
  log.addEventListener("change", () => { view.log = log.checked; drawAll(); });
}

build();
controls();
new ResizeObserver(drawAll).observe(document.getElementById("charts"));
drawAll();
