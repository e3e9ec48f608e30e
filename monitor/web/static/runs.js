import { byId, count, el, fixed, known, moment, percent, table, update, whole } from "./dom.js";
import { ask, poll } from "./poll.js";

const COLUMNS = [["run"], ["state"], ["step", "number"], ["loss", "number"], ["tokens/s", "number"], ["MFU", "number"], ["attempts", "number"], ["launched", "nowrap"]];

function row(run) {
  return [
    el("a", { href: `/runs/${encodeURIComponent(run.run)}` }, run.run),
    el("span", { class: `badge ${run.state}` }, run.state),
    known(run.step, whole) + (run.steps ? ` / ${whole(run.steps)}` : ""),
    known(run.loss, fixed(4)), known(run.tokens_per_s, count), known(run.mfu, percent),
    String(run.attempts), moment(run.launched_at),
  ];
}

poll(async () => {
  const { runs } = await ask("/api/runs");
  update(byId("runs"), runs, () => (runs.length
    ? table(COLUMNS, runs.map(row))
    : el("p", { class: "card" }, "No run was launched yet. Try: smolplan launch tiny-cpu")));
  return true;
});
