// A curve: its mean as a line, lowest to highest as a band behind it, attempts and faults marked.

import { el, svg } from "./dom.js";

const HEIGHT = 190;
const LEFT = 50, RIGHT = 10, TOP = 14, BOTTOM = 24;

function ticks(low, high, about) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let i = first; i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

// What lies far out, once, must not flatten all the rest.
function bounds(rows, plan) {
  const lows = rows.map((row) => row.low).sort((a, b) => a - b);
  const highs = rows.map((row) => row.high).sort((a, b) => a - b);
  const cut = Math.floor(rows.length / 50);
  let low = Math.min(lows[cut], plan ?? Infinity), high = Math.max(highs[highs.length - 1 - cut], plan ?? -Infinity);
  if (low === high) { low -= Math.abs(low) * 0.05 || 1; high += Math.abs(high) * 0.05 || 1; }
  const room = (high - low) * 0.06;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

export class Chart {
  constructor({ title, format, plan }) {
    this.format = format;
    this.title = title;
    this.planWord = plan;
    this.read = el("output");
    this.svg = svg("svg", { class: "chart", role: "img", tabindex: 0 });
    this.node = el("figure", { class: "card" }, el("figcaption", {}, title, this.read), this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.clientX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => this.walk(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  // rows: {x, attempt, mean, low, high}, x ascending within an attempt; marks: {x, severity, what};
  // newest: the value of the last step alone;
  // begins: the x at which attempts began.
  show({ rows, newest, marks, begins, plan, xWord, xFormat }) {
    Object.assign(this, { rows, newest, marks, begins, plan, xWord, xFormat, at: null });
    this.draw();
  }

  draw() {
    const wide = this.svg.clientWidth;
    if (!this.rows || !wide) return;
    this.svg.setAttribute("viewBox", `0 0 ${wide} ${HEIGHT}`);
    const last = this.rows[this.rows.length - 1];
    this.svg.setAttribute("aria-label", last ? `${this.title}: ${this.format(last.mean)} at ${this.xWord} ${this.xFormat(last.x)}` : `${this.title}: nothing yet`);
    if (!last) {
      this.svg.replaceChildren(svg("text", { x: wide / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing on record"));
      this.read.textContent = "";
      return;
    }
    const xs = this.rows.map((row) => row.x);
    const from = Math.min(...xs), to = Math.max(...xs, from + 1e-9);
    const [low, high] = bounds(this.rows, this.plan);
    this.xOf = (x) => LEFT + ((x - from) / (to - from)) * (wide - LEFT - RIGHT);
    this.yOf = (y) => TOP + (1 - (Math.min(Math.max(y, low), high) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const { xOf, yOf } = this;
    const parts = [];
    for (const y of ticks(low, high, 5)) {
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: wide - RIGHT, y1: yOf(y), y2: yOf(y) }));
      parts.push(svg("text", { x: LEFT - 6, y: yOf(y) + 4, "text-anchor": "end" }, this.format(y)));
    }
    for (const x of ticks(from, to, Math.max(2, Math.floor(wide / 70)))) {
      parts.push(svg("text", { x: Math.min(xOf(x), wide - 24), y: HEIGHT - 6, "text-anchor": "middle" }, this.xFormat(x)));
    }
    for (const x of this.begins) parts.push(svg("line", { class: "begin", x1: xOf(x), x2: xOf(x), y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const rows of this.byAttempt()) {
      const up = rows.map((row) => `${xOf(row.x).toFixed(1)},${yOf(row.high).toFixed(1)}`);
      const down = rows.map((row) => `${xOf(row.x).toFixed(1)},${yOf(row.low).toFixed(1)}`).reverse();
      parts.push(svg("path", { class: "band", d: `M${[...up, ...down].join("L")}Z` }));
      const line = rows.map((row) => `${xOf(row.x).toFixed(1)},${yOf(row.mean).toFixed(1)}`);
      parts.push(svg("path", { class: "curve", d: `M${line.join("L")}` }));
    }
    if (this.plan) {
      const y = yOf(this.plan);
      parts.push(svg("line", { class: "plan", x1: LEFT, x2: wide - RIGHT, y1: y, y2: y }));
      parts.push(svg("text", { class: "plan-word", x: wide - RIGHT, y: y - 4, "text-anchor": "end" }, this.planWord));
    }
    for (const mark of this.marks) {
      if (mark.x < from || mark.x > to) continue;
      const x = xOf(mark.x);
      parts.push(svg("path", { class: `fault ${mark.severity}`, d: `M${x},${TOP - 2}l5,-9h-10Z` }, svg("title", {}, mark.what)));
    }
    this.svg.replaceChildren(...parts);
    this.cross();
  }

  byAttempt() {
    const parts = [];
    for (const row of this.rows) {
      const part = parts[parts.length - 1];
      if (part && part[0].attempt === row.attempt) part.push(row); else parts.push([row]);
    }
    return parts;
  }

  point(clientX) {
    if (!this.rows || !this.rows.length) return;
    if (clientX === null) this.at = null;
    else {
      const x = clientX - this.svg.getBoundingClientRect().left;
      let nearest = 0;
      this.rows.forEach((row, i) => { if (Math.abs(this.xOf(row.x) - x) < Math.abs(this.xOf(this.rows[nearest].x) - x)) nearest = i; });
      this.at = nearest;
    }
    this.cross();
  }

  walk(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.rows || !this.rows.length) return;
    event.preventDefault();
    this.at = Math.min(Math.max((this.at ?? this.rows.length - 1) + by, 0), this.rows.length - 1);
    this.cross();
  }

  cross() {
    this.svg.querySelectorAll(".cross, .dot").forEach((node) => node.remove());
    const row = this.rows[this.at ?? this.rows.length - 1];
    const spread = row.low === row.high ? "" : ` (${this.format(row.low)} to ${this.format(row.high)})`;
    this.read.textContent = this.at === null ? this.format(this.newest ?? row.mean) : `${this.format(row.mean)}${spread} · ${this.xWord} ${this.xFormat(row.x)}`;
    if (this.at === null) return;
    const x = this.xOf(row.x);
    this.svg.append(svg("line", { class: "cross", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }), svg("circle", { class: "dot", cx: x, cy: this.yOf(row.mean), r: 3.5 }));
  }
}
