// The parts of a run's page that are words and tables.

import { bytes, count, duration, el, fixed, known, moment, percent, table, whole } from "./dom.js";

const figure = (name, value, note) => el("div", {}, el("dt", {}, name), el("dd", { class: "value" }, value), note ? el("dd", { class: "note" }, note) : null);

export function head(run) {
  const { last, plan, goodput } = run;
  const planned = plan.tokens_per_s && last.tokens_per_s ? `${percent(last.tokens_per_s / plan.tokens_per_s)} of the plan's ${count(plan.tokens_per_s)}` : "";
  const doing = run.state === "active" ? `attempt ${run.attempt}: ${run.phase || run.attempt_state}` : run.reason;
  return [
    el("div", { class: "title" }, el("h1", {}, run.run), el("span", { class: `badge ${run.state}` }, run.state), el("span", { class: "dim" }, doing), run.forked_from && el("span", { class: "dim" }, `forked from ${run.forked_from}`)),
    el("progress", { max: Math.max(1, run.steps), value: run.step, "aria-label": "Steps done" }),
    el("dl", { class: "figures" },
      figure("step", whole(run.step), `of ${whole(run.steps)} · ${percent(run.step / Math.max(1, run.steps))}`),
      figure("to go", run.state === "active" ? known(run.eta_s, duration) : "–", run.state === "active" ? "at the present pace" : `ran ${duration(goodput.wall_s)}`),
      figure("loss", known(last.loss, fixed(4)), last.grad_norm === null ? "" : `gradient norm ${last.grad_norm.toFixed(3)}`),
      figure("tokens/s", known(last.tokens_per_s, count), planned || `step ${known(last.step_s, duration)}`),
      last.mfu === null ? null : figure("MFU", percent(last.mfu), "exact FLOPs, dense peak"),
      figure("goodput", percent(goodput.ratio), `of ${duration(goodput.wall_s)}`),
      figure("attempt", String(run.attempt), run.checkpoint.step === null ? "no checkpoint yet" : `checkpoint at step ${whole(run.checkpoint.step)}`),
      figure(run.gpus === 1 ? "GPU" : "GPUs", whole(run.gpus), last.tokens === null ? "" : `${count(last.tokens)} tokens done`)),
  ];
}

const notice = (severity, ...lines) => el("div", { class: `notice ${severity}` }, lines.filter(Boolean).map((line, i) => el("p", { class: i ? "dim" : null }, line)));

export function alerts(run) {
  const told = run.standing.map((one) => notice(one.severity, one.what, one.todo && `To do: ${one.todo}`));
  for (const one of run.left_out) told.push(notice("warning", `${one.host} is left out (${one.kind}): ${one.detail}`));
  if (run.state === "active" && !run.watched) {
    told.unshift(notice("critical", run.monitored ? "No monitor watches this run. Start one by: smolplan monitor" : "Launched without a monitor: if it breaks, nothing restarts it."));
  }
  if (!run.caught_up) told.unshift(notice("info", "The run's record is being read; curves and times grow until it is."));
  return told;
}

export function goodput({ causes, wall_s: wall }) {
  if (!causes.length) return el("p", { class: "dim" }, "Nothing yet.");
  const bar = el("div", { class: "parts", role: "img", "aria-label": causes.map((one) => `${one.cause} ${percent(one.seconds / wall)}`).join(", ") });
  const legend = el("ul", { class: "legend" });
  for (const one of causes) {
    const part = el("span", { title: `${one.cause}: ${duration(one.seconds)}` });
    part.style.flex = `${one.seconds} 0 0`;
    part.style.background = one.colour;
    bar.append(part);
    const swatch = el("i");
    swatch.style.background = one.colour;
    legend.append(el("li", {}, swatch, el("b", {}, one.cause), el("span", { class: "number" }, `${fixed(one.seconds < 100 ? 1 : 0)(one.seconds)} s`), el("span", { class: "share" }, percent(one.seconds / wall)), el("small", {}, one.what)));
  }
  return el("div", { class: "card" }, bar, legend);
}

export function hosts(list, now) {
  const rows = [];
  for (const host of list) {
    const about = `load ${known(host.load, fixed(1))}, ${known(host.memory_available_bytes, bytes)} of memory free`;
    const seen = `${duration(Math.max(0, now - host.time))} ago`;
    if (!host.gpus.length) rows.push([host.host, "–", "–", "–", "–", "–", "–", about, seen]);
    for (const gpu of host.gpus) {
      const xids = Object.entries(gpu.xids).map(([code, times]) => `${code} ×${times}`).join(", ");
      rows.push([
        host.host, gpu.lost ? el("b", { class: "bad" }, `${gpu.index} lost`) : String(gpu.index),
        known(gpu.temperature_c, (v) => `${whole(v)} °C`),
        known(gpu.power_w, whole) + (gpu.power_limit_w ? ` / ${whole(gpu.power_limit_w)} W` : " W"),
        known(gpu.utilisation_percent, (v) => `${whole(v)} %`),
        known(gpu.memory_used_mib, (v) => `${(v / 1024).toFixed(1)} GiB`),
        xids ? el("b", { class: "bad" }, xids) : "none", about, seen,
      ]);
    }
  }
  return table([["host", "nowrap"], ["GPU"], ["temperature", "number"], ["power", "number"], ["use", "number"], ["memory", "number"], ["XID", "nowrap"], ["host's own", "wide"], ["seen", "number"]], rows);
}

export function timeline(entries) {
  if (!entries.length) return el("li", { class: "dim" }, "Nothing yet.");
  return entries.map((one) => {
    const where = [one.by, one.step === null ? "" : `step ${whole(one.step)}`].filter(Boolean).join(" · ");
    const more = [one.done, one.todo && `To do: ${one.todo}`].filter(Boolean).join(" ");
    return el("li", { class: one.over ? "over" : one.severity }, el("time", { datetime: new Date(one.time * 1000).toISOString() }, moment(one.time)),
      el("div", {}, el("p", {}, one.severity === "info" ? null : el("span", { class: `badge ${one.severity}` }, one.severity), one.severity === "info" ? one.what : ` ${one.what}`),
        el("p", { class: "more" }, [where, more].filter(Boolean).join(" — "))));
  });
}

export function attempts(list) {
  const rows = [...list].reverse().map((one) => [
    String(one.number), one.state, one.reason, one.cause || "–",
    `${whole(one.from_step)} to ${known(one.to_step, whole, "…")}`, moment(one.created_at),
    one.ended_at === null ? "–" : duration(one.ended_at - one.created_at),
  ]);
  return table([["attempt", "number"], ["state"], ["why", "wide"], ["ended by", "wide"], ["steps", "number"], ["planned", "nowrap"], ["lasted", "number"]], rows);
}
