"""A search as JSON: everything that was found, for other programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from planner.layout_lines import differences, fullest_rank_lines, run_lines, step_lines
from planner.search import By, Candidate, Found, best_of, pareto_front


def content(
    found: Sequence[Found], own: Candidate, free: Candidate | None, by: By, took_s: float
) -> dict[str, Any]:
    best = best_of(found, by)
    winners = [one.best[0] for one in found if one.best]
    examined, legal = sum(one.examined for one in found), sum(one.legal for one in found)
    told: dict[str, Any] = {
        "by": by,
        "examined": examined,
        "legal": legal,
        "search_s": took_s,
        "examined_per_s": examined / took_s,
        "priced_per_s": legal / took_s,
        "site": asdict(found[0].site),
        "steps": found[0].steps,
        "searches": [
            {
                "job": asdict(one.job),
                "examined": one.examined,
                "legal": one.legal,
                "rejections": [asdict(rejection) for rejection in one.rejections],
                "best": [asdict(candidate) for candidate in one.best],
            }
            for one in found
        ],
        "front": [
            {"gpus": c.gpus, "days": c.days, "dollars": c.dollars, "kwh": c.kwh, "pareto": front}
            for c, front in zip(winners, pareto_front(winners), strict=True)
        ],
        "spec_layout": asdict(own),
        "without_restriction": None if free is None else asdict(free),
        "best": None,
    }
    if best is not None:
        won = next(one for one in found if one.best and one.best[0] is best)
        told["best"] = asdict(best) | {
            "step_lines": [asdict(line) for line in step_lines(won, best)],
            "memory_lines": [asdict(line) for line in fullest_rank_lines(won, best)],
            "run_lines": [asdict(line) for line in run_lines(won, best)],
            "against_runner_up": [
                {"cause": cause, "best_s": mine, "runner_up_s": theirs}
                for cause, mine, theirs in differences(best, won.best[1])
            ]
            if len(won.best) > 1
            else [],
        }
    return told
