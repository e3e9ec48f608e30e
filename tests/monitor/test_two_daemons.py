"""Of two monitors, and people beside them, never do two act: every interleaving is tried.

How deep it goes is bounded by how often each monitor looks, the clock passes a lease, somebody is
killed and an attempt breaks; what is left then stays paused for ever.
"""

from pathlib import Path

import pytest

from launcher.store import AttemptState, Store
from tests.monitor.actors import Actor
from tests.monitor.interleavings import RUN, Model
from tests.support import make_spec


def monitors(looks: int) -> tuple[Actor, ...]:
    return tuple(Actor(name, "daemon", looks) for name in "ab")


def person(command: str) -> Actor:
    return Actor(command, command)


def model_of(store: Store, cache: Path, state: AttemptState, patch: pytest.MonkeyPatch) -> Model:
    """One run, whose first attempt is in that state."""
    _, attempt = store.add_run(RUN, store.folder, "hash", monitored=True)
    if state != "planned":
        store.move_attempt(attempt, state, fence=None)
    return Model(store, make_spec(cache), patch)


@pytest.mark.parametrize(
    ("state", "actors", "bounds", "reached", "at_least"),
    [
        ("planned", monitors(2), {"ticks": 1, "deaths": 1}, "attempt 1 started", 20_000),
        ("planned", (*monitors(1), person("launch")), {"ticks": 1}, "attempt 1 started", 2_500),
        ("running", monitors(2), {"ticks": 1, "faults": 1}, "attempt 2 started", 20_000),
        ("condemned", monitors(2), {"ticks": 1}, "attempt 2 started", 5_000),
        (
            "running",
            (Actor("a", "daemon", 2), person("stop --now")),
            {"faults": 1},
            "run stopped",
            10_000,
        ),
        (
            "running",
            (Actor("a", "daemon", 3), person("stop"), person("resume")),
            {"faults": 1},
            "attempt 2 started",
            1_000,
        ),
        (
            "ended",
            (Actor("a", "daemon", 2, renewals=1), person("stop --now")),
            {},
            "run stopped",
            100_000,
        ),
        (
            "planned",
            (Actor("a", "daemon", 2, renewals=1), person("stop"), person("resume")),
            {"ticks": 1},
            "run stopped",
            5_000,
        ),
    ],
)
def test_no_interleaving_lets_two_act(
    store: Store,
    data_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: AttemptState,
    actors: tuple[Actor, ...],
    bounds: dict[str, int],
    reached: str,
    at_least: int,
) -> None:
    model = model_of(store, data_cache, state, monkeypatch)
    interleavings = model.explore(model.state(actors, **bounds))
    assert model.violations == {}
    assert interleavings >= at_least
    assert {reached, "a monitor found its lease gone"} <= model.reached


def test_a_launcher_that_cannot_start_a_run_leaves_none_that_goes_on_unseen(
    store: Store, data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(store, data_cache, "planned", monkeypatch)
    model.cannot_start = {"launch"}
    model.explore(model.state((Actor("a", "daemon", 5), person("launch"))))
    assert model.violations == {}
    assert {"run failed", "run stopped"} <= model.reached


def test_without_the_fencing_number_it_is_found_that_two_act(
    store: Store, data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "_check_fence", lambda *given: None)
    model = model_of(store, data_cache, "running", monkeypatch)
    model.explore(model.state(monitors(2), ticks=1, faults=1))
    assert "something was changed under a fence that had passed" in model.violations
