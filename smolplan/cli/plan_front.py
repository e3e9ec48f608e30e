"""The front of GPUs, days and dollars as a picture."""

from collections.abc import Sequence

from planner.plot import Point, scatter_svg
from planner.search import Found, pareto_front


def front_svg(found: Sequence[Found], name: str) -> str:
    winners = [one.best[0] for one in found if one.best]
    dollars = all(c.dollars is not None for c in winners)
    points = [
        Point(
            c.days,
            c.dollars if c.dollars is not None else c.gpus * c.days * 24,
            f"{c.gpus:,}",
            filled=front,
        )
        for c, front in zip(winners, pareto_front(winners), strict=True)
    ]
    gpu = found[0].site.accelerator.name
    return scatter_svg(
        points,
        title=f"{name} on {gpu}: the fastest layout by number of GPUs",
        x_label="days of stepping",
        y_label="US dollars" if dollars else "GPU-hours",
    )
