"""The answer of planner/outlook.py, line by line, and what it takes for granted."""

from planner.explain import Line
from planner.observed import OBSERVED
from planner.outlook import LEVEL, PLAYS, Outlook
from planner.reliability import DALY
from smolplan.units import count_of, format_duration

BELIEF = "Poisson count × Student's t of the log rate around the prior (planner/observed.py)"
GARWOOD = "exact Poisson interval of the count alone (Garwood 1936)"


def lines_of(outlook: Outlook) -> list[Line]:
    """Each line with its formula and source; what was observed says so, with its count."""
    o, step, run, rate = outlook.observed, outlook.step, outlook.run, outlook.rate
    seen = f"{OBSERVED}, the newest {count_of(step.count, 'step')}"
    tail, alone = (1 - LEVEL) / 2, rate.observed_alone(LEVEL)
    lines = [
        Line(
            "steps left",
            o.steps_left,
            "",
            f"{o.steps:,} of the spec − {o.step:,} done"
            + (f", of {o.batch_growth:.4g} × the newest's batch" if o.batch_growth > 1 else ""),
        ),
        Line("step", step.mean, "s", "mean", seen),
        Line("step, median", step.median, "s", f"{step.low:.4g} to {step.high:.4g} s for 80 %"),
        Line("drift", step.mean_error, "s", "standard deviation of the means of equal pieces"),
        Line("evaluations", o.evaluation_s, "s", "a step on average", OBSERVED),
        Line("work left", run.work_s, "s", "steps left × (step + evaluations)"),
        Line("failures", o.failures, "", f"in {o.running_s:,.0f} s of running", OBSERVED),
        Line("MTTF, prior", outlook.prior.mttf_s, "s", "assumed", outlook.prior.mttf_source),
        Line("MTTF, by count alone, low", 1 / alone[1], "s", f"{LEVEL:.0%} interval", GARWOOD),
        Line("MTTF", run.mttf_s, "s", "median of what is believed after both", BELIEF),
        Line("MTTF, low", 1 / rate.quantile(1 - tail), "s", f"{LEVEL:.0%} interval"),
        Line("MTTF, high", 1 / rate.quantile(tail), "s", f"{LEVEL:.0%} interval"),
    ]
    lines += [
        Line(name.replace("_", "-"), seconds, "s", *_split(source))
        for name, (seconds, source) in outlook.spans.items()
    ]
    lines += [
        Line(
            "checkpoint interval",
            outlook.advised.interval_s,
            "s",
            "τ that makes δ/M + τ/M + ln(1 − τ/M) zero",
            f"minimum of the exact cost function of {DALY}",
        ),
        Line("the same in steps", outlook.advised.steps, "", "interval / (step + evaluations)"),
        Line(
            "to go",
            outlook.eta_s.middle,
            "s",
            f"median of {PLAYS} played ends, seed {outlook.seed}; failure rates drawn from "
            f"their distribution, speeds by their drift",
            "planner/simulate.py",
        ),
    ]
    return lines


def _split(source: str) -> tuple[str, str]:
    formula, _, rest = source.partition("; ")
    return formula, rest


def notes_on(outlook: Outlook) -> list[str]:
    """What the answer takes for granted."""
    o, notes = outlook.observed, []
    unseen = [name for name, (_, source) in outlook.spans.items() if OBSERVED + "," not in source]
    if unseen:
        told = ", ".join(
            f"{name.replace('_', '-')} {format_duration(outlook.spans[name][0])}" for name in unseen
        )
        notes.append(f"not observed yet, so assumed: {told}")
    if o.failures < 3:
        prior = format_duration(outlook.prior.mttf_s)
        notes.append(
            f"{count_of(o.failures, 'failure')} so far, too few to tell their rate: one in {prior} "
            f"was assumed before ({outlook.prior.mttf_source}) and still counts"
        )
    notes.append("a spare node is taken to be at hand at every failure")
    return notes
