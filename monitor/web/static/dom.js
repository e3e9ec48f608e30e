// Building blocks: everything that comes from a run's record goes through textContent, so that a
// name or a reason is never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const byId = (id) => document.getElementById(id);

// Only what has changed is put in anew: a selection, or a screen reader, is left alone.
const shown = new WeakMap();
export function update(node, content, make) {
  const key = JSON.stringify(content);
  if (shown.get(node) === key) return;
  shown.set(node, key);
  node.replaceChildren(...[make()].flat());
}

export function choice(node, options, chosen, onChoose) {
  node.replaceChildren(...options.map(([value, word]) => {
    const button = el("button", { type: "button", "aria-pressed": String(value === chosen) }, word);
    button.addEventListener("click", () => {
      for (const other of node.children) other.setAttribute("aria-pressed", String(other === button));
      onChoose(value);
    });
    return button;
  }));
}

export function table(columns, rows) {
  const cell = (tag, [, kind], text) => el(tag, { class: kind }, text);
  return el("div", { class: "scroll", tabindex: 0 }, el("table", {},
    el("thead", {}, el("tr", {}, columns.map((column) => cell("th", [0, column[1] === "number" ? "number" : null], column[0])))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((text, i) => cell("td", columns[i], text)))))));
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const known = (value, format, otherwise = "–") => (isNumber(value) ? format(value) : otherwise);

export const whole = (value) => Math.round(value).toLocaleString("en");
export const fixed = (digits) => (value) => value.toFixed(digits);
export const digits = (many) => (value) => String(Number(value.toPrecision(many)));
export const percent = (value) => `${(100 * value).toFixed(1)} %`;

export function count(value) { // 12,345,678 → 12.3M
  const size = Math.abs(value);
  for (const [unit, of] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (size >= of) return `${Number((value / of).toPrecision(3))}${unit}`;
  }
  return size >= 100 || Number.isInteger(value) ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

export function duration(seconds) {
  if (seconds < 60) return `${Number(seconds.toPrecision(seconds < 1 ? 3 : 2))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const bytes = (value) => `${(value / 2 ** 30).toPrecision(3)} GiB`;

export const moment = (time) => new Date(time * 1000).toLocaleString("sv").slice(5);
