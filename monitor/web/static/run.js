import { Chart } from "./chart.js";
import { byId, choice, count, digits, percent, update } from "./dom.js";
import { ask, poll } from "./poll.js";
import { Ranks } from "./ranks.js";
import * as sections from "./sections.js";

const id = decodeURIComponent(location.pathname.split("/")[2]);
const url = `/api/runs/${encodeURIComponent(id)}`;
document.title = `${id} · smolplan`;
byId("crumb").textContent = id;

const CHARTS = {
  loss: new Chart({ title: "Loss", format: digits(4) }),
  tokens_per_s: new Chart({ title: "Throughput, tokens/s", format: count, plan: "plan" }),
  grad_norm: new Chart({ title: "Gradient norm", format: digits(3) }),
  mfu: new Chart({ title: "MFU", format: percent, plan: "plan" }),
};
byId("curves").append(...Object.values(CHARTS).map((chart) => chart.node));

const AXES = {
  step: { word: "step", format: count },
  hours: { word: "hour", format: digits(3) },
};
let axis = "step";
let run = null;
let curve = null;
choice(byId("axis"), [["step", "Steps"], ["hours", "Hours"]], axis, (name) => { axis = name; draw(); });
const ranks = new Ranks();
let allEntries = false;

// Columns that have come before stay, as long as one point stands for as many steps; of these, the
// last one may have grown.
function join(old, more) {
  if (!old || old.share !== more.share || more.from === 0) return more;
  const joined = { ...more, from: 0 };
  for (const name of ["step", "hours", "attempt", ...Object.keys(CHARTS)]) joined[name] = [...old[name].slice(0, more.from), ...more[name]];
  return joined;
}

function draw() {
  if (!run || !curve) return;
  const xs = curve[axis];
  const begins = xs.filter((_, i) => i && curve.attempt[i] !== curve.attempt[i - 1]);
  const marks = run.timeline.filter((one) => one.severity !== "info" && !one.over).map((one) => ({ severity: one.severity, what: one.what, x: placeOf(one) }));
  for (const [name, chart] of Object.entries(CHARTS)) {
    const rows = [];
    curve[name].forEach((spread, i) => {
      if (spread) rows.push({ x: xs[i], attempt: curve.attempt[i], mean: spread[0], low: spread[1], high: spread[2] });
    });
    if (name === "mfu" && !rows.length) chart.node.remove(); // no peak is known to hold it against
    else if (!chart.node.isConnected) byId("curves").append(chart.node);
    chart.show({ rows, newest: run.last[name], marks, begins, plan: run.plan[name], xWord: AXES[axis].word, xFormat: AXES[axis].format });
  }
}

// A fault is told by its time: among the steps, it comes after the last one before it.
function placeOf(entry) {
  const hours = (entry.time - run.launched_at) / 3600;
  if (axis === "hours") return hours;
  let i = curve.hours.findIndex((later) => later > hours);
  if (i < 0) i = curve.hours.length;
  return curve.step[Math.max(0, i - 1)];
}

function showTimeline() {
  const shown = allEntries ? run.timeline : run.timeline.slice(0, 30);
  update(byId("timeline"), [shown, run.timeline.length], () => {
    const items = [sections.timeline(shown)].flat();
    if (shown.length < run.timeline.length) {
      const button = Object.assign(document.createElement("button"), { className: "button", type: "button", textContent: `Show all ${run.timeline.length}` });
      button.addEventListener("click", () => { allEntries = true; showTimeline(); });
      const item = document.createElement("li");
      item.append(button);
      items.push(item);
    }
    return items;
  });
}

poll(async () => {
  run = await ask(url);
  const from = curve ? curve.step.length - 1 : 0;
  curve = join(curve, await ask(`${url}/curve?share=${curve ? curve.share : 0}&from=${Math.max(0, from)}`));
  document.body.dataset.step = String(run.step);
  const { now, ranks: seen, timeline, ...rest } = run;
  update(byId("head"), rest, () => sections.head(run));
  update(byId("alerts"), [run.standing, run.left_out, run.watched, run.caught_up], () => sections.alerts(run));
  update(byId("goodput"), run.goodput, () => sections.goodput(run.goodput));
  byId("s-hosts").hidden = !run.hosts.length;
  update(byId("hosts"), [run.hosts, Math.round(now)], () => sections.hosts(run.hosts, now));
  update(byId("attempts"), run.attempts, () => sections.attempts(run.attempts));
  showTimeline();
  ranks.show(seen, now);
  draw();
  return run.state === "active" || !run.caught_up;
});
