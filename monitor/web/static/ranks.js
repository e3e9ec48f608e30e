// All ranks at a glance: a cell each, coloured by how far one is behind, how long its last step
// took, or for how long it has said nothing.

import { byId, choice, count, duration, el, known, whole } from "./dom.js";

const MEASURES = {
  lag: { word: "Steps behind", format: whole, of: (ranks, i) => Math.max(...ranks.step) - ranks.step[i] },
  step_s: { word: "Last step", format: duration, of: (ranks, i) => ranks.last_step_s[i] },
  idle: { word: "Silent for", format: duration, of: (ranks, i, now) => Math.max(0, now - ranks.seen_at[i]) },
};
// viridis, at five places: even to the eye, and to the colour-blind (matplotlib, CC0).
const COLOURS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function colour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const [a, b] = [COLOURS[Math.floor(at)], COLOURS[Math.ceil(at)]];
  return `rgb(${a.map((part, i) => Math.round(part + (b[i] - part) * (at % 1))).join(" ")})`;
}

export class Ranks {
  constructor() {
    this.measure = "step_s";
    this.canvas = el("canvas", { class: "heat", role: "img" });
    this.low = el("span");
    this.high = el("span");
    const scale = el("canvas", { width: 100, height: 1, "aria-hidden": "true" });
    const paint = scale.getContext("2d");
    for (let x = 0; x < 100; x++) { paint.fillStyle = colour(x / 99); paint.fillRect(x, 0, 1, 1); }
    this.hint = el("p", { class: "hint" });
    this.empty = el("p", { class: "dim" }, "No rank of this attempt has shown a sign of life yet.");
    this.full = el("div", { hidden: true }, this.canvas, el("div", { class: "scale" }, this.low, scale, this.high), this.hint);
    byId("ranks").append(el("div", { class: "card" }, this.empty, this.full));
    choice(byId("measure"), Object.entries(MEASURES).map(([name, { word }]) => [name, word]), this.measure, (name) => { this.measure = name; this.draw(); });
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => { this.at = null; this.tell(); });
    new ResizeObserver(() => this.draw()).observe(byId("ranks"));
  }

  show(ranks, now) {
    Object.assign(this, { ranks, now });
    this.draw();
  }

  draw() {
    if (!this.ranks) return;
    const { ranks } = this;
    this.full.hidden = !ranks.rank.length;
    this.empty.hidden = !this.full.hidden;
    if (this.full.hidden) return;
    const { of, format } = MEASURES[this.measure];
    this.values = ranks.rank.map((_, i) => of(ranks, i, this.now));
    const some = this.values.filter((value) => value !== null);
    const low = some.length ? Math.min(...some) : 0, high = some.length ? Math.max(...some) : 0;
    this.low.textContent = format(low);
    this.high.textContent = format(high);

    const cells = ranks.rank[ranks.rank.length - 1] + 1;
    const wide = this.canvas.clientWidth;
    // As large as they fit into some 160 px of height, no larger than a finger.
    this.cell = Math.max(6, Math.min(26, Math.floor(Math.sqrt((wide * 160) / cells))));
    this.across = Math.max(1, Math.floor(wide / this.cell));
    const sharp = window.devicePixelRatio || 1;
    const tall = Math.ceil(cells / this.across) * this.cell;
    this.canvas.width = wide * sharp;
    this.canvas.height = tall * sharp;
    this.canvas.style.height = `${tall}px`;
    const paint = this.canvas.getContext("2d");
    paint.scale(sharp, sharp);
    const gap = this.cell > 10 ? 2 : 1;
    ranks.rank.forEach((rank, i) => {
      const value = this.values[i];
      paint.fillStyle = value === null ? "#8884" : colour(high > low ? (value - low) / (high - low) : 0.25);
      paint.fillRect((rank % this.across) * this.cell, Math.floor(rank / this.across) * this.cell, this.cell - gap, this.cell - gap);
    });
    const worst = this.values.indexOf(high);
    this.canvas.setAttribute("aria-label", `${MEASURES[this.measure].word}, ${ranks.rank.length} ranks: ${format(low)} to ${format(high)}, the most at rank ${ranks.rank[worst]}`);
    this.worst = worst;
    this.tell();
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const rank = Math.floor((event.clientY - box.top) / this.cell) * this.across + Math.floor((event.clientX - box.left) / this.cell);
    const found = this.ranks.rank.indexOf(rank);
    this.at = found < 0 ? null : found;
    this.tell();
  }

  tell() {
    const { ranks } = this, i = this.at ?? this.worst;
    const of = ranks.rank.length < ranks.expected ? `${count(ranks.rank.length)} of ${count(ranks.expected)} ranks seen. ` : "";
    const lead = this.at === null || this.at === undefined ? `${of}Most: ` : "";
    this.hint.textContent = `${lead}rank ${ranks.rank[i]} on ${ranks.host[i]}: step ${whole(ranks.step[i])}, ${ranks.phase[i]}, last step ${known(ranks.last_step_s[i], duration)}, last sign ${duration(Math.max(0, this.now - ranks.seen_at[i]))} ago`;
  }
}
