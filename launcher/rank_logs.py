"""Where torchrun's agent writes what the ranks say: attempts/K/logs/rank-N.log."""

from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, Std

from smolplan.rundir import RunDir


class RankLogs(LogsSpecs):
    """The agent opens a file for each stream, so stdout, which the trainer does not use, has
    one of its own beside the log."""

    def __init__(self, run: RunDir, attempt: int) -> None:
        super().__init__(redirects=Std.ALL)
        self._run, self._attempt = run, attempt

    @property
    def root_log_dir(self) -> str:
        return str(self._run.rank_log(self._attempt, 0).parent)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        logs = {i: self._run.rank_log(self._attempt, int(env["RANK"])) for i, env in envs.items()}
        for path in logs.values():
            path.parent.mkdir(exist_ok=True)
        return LogsDest(
            stdouts={i: str(path.with_suffix(".stdout")) for i, path in logs.items()},
            stderrs={i: str(path) for i, path in logs.items()},
            tee_stdouts=dict.fromkeys(logs, ""),
            tee_stderrs=dict.fromkeys(logs, ""),
            error_files={i: str(path.with_suffix(".error.json")) for i, path in logs.items()},
        )
