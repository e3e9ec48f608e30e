"""The trackers that metrics can be passed on to, each as it wants them."""

from collections.abc import Mapping
from typing import Any, Protocol

from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from smolplan.spec.log import LogSpec
from smolplan.trackers import check_trackers

PARTS = {"name", "seed", "model", "data", "optim", "parallel", "cluster"}
"""Of the spec, that a tracker is told: nothing that may name receivers, hosts or paths of keys."""


class Sink(Protocol):
    goes_back: bool
    """Whether it can forget steps; else a step that is done again is not sent again."""

    def go_back(self, step: int) -> None:
        """Forget this step and all later ones."""

    def send(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """`at`: seconds since the epoch."""

    def flush(self) -> None:
        """What was sent is out of this process."""

    def close(self) -> None: ...


class TensorBoard:
    goes_back = True

    def __init__(self, run: RunDir) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._session = event_pb2.Event, event_pb2.SessionLog
        self._summary = summary_pb2.Summary
        self._writer = EventFileWriter(str(run.tensorboard))

    def go_back(self, step: int) -> None:
        # A session that starts has readers drop what stood there from its step on.
        started = self._session(status=self._session.START)
        self._writer.add_event(self._event(step=step, session_log=started))

    def send(self, step: int, at: float, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
        self._writer.add_event(
            self._event(step=step, wall_time=at, summary=self._summary(value=scalars))
        )

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    goes_back = False

    def __init__(self, run: RunDir, spec: RunSpec, log: LogSpec) -> None:
        import wandb

        assert log.wandb is not None
        name = run.path.name
        folder = run.tracking("wandb").parent
        folder.mkdir(exist_ok=True)
        self._run = wandb.init(
            project=log.wandb.project,
            entity=log.wandb.entity,
            mode=log.wandb.mode,
            id=name,
            name=name,
            resume="allow",
            dir=str(folder),
            config=_told(spec),
            # Its own samples would be of this process and machine, not of the ranks.
            settings=wandb.Settings(console="off", x_disable_stats=True),
        )
        # wandb's own step may only grow, and scores of an old checkpoint come late.
        self._run.define_metric("*", step_metric="step")

    def go_back(self, step: int) -> None:
        raise NotImplementedError

    def send(self, step: int, at: float, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, "time": at, **values})

    def flush(self) -> None:
        """wandb has processes of its own for that."""

    def close(self) -> None:
        self._run.finish()


class Trackio:
    goes_back = False

    def __init__(self, run: RunDir, spec: RunSpec, log: LogSpec) -> None:
        import trackio

        assert log.trackio is not None
        self._trackio = trackio
        trackio.init(
            project=log.trackio.project,
            name=run.path.name,
            resume="allow",
            config=_told(spec),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def go_back(self, step: int) -> None:
        raise NotImplementedError

    def send(self, step: int, at: float, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def flush(self) -> None:
        """trackio has a thread of its own for that."""

    def close(self) -> None:
        self._trackio.finish()


def open_sink(name: str, run: RunDir, spec: RunSpec, log: LogSpec) -> Sink:
    """Raises UserError where its package is missing, and whatever the tracker raises."""
    check_trackers([name])
    match name:
        case "tensorboard":
            return TensorBoard(run)
        case "wandb":
            return Wandb(run, spec, log)
        case "trackio":
            return Trackio(run, spec, log)
    raise UserError(f"{name!r} is no tracker", remedy="Name tensorboard, wandb or trackio.")


def _told(spec: RunSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", include=PARTS)
