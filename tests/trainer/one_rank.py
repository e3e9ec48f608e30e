from trainer.parallel import World


class OneRank(World):
    """Of a model that nobody shares; joins no process group."""

    def __init__(self) -> None:
        pass

    def sum(self, values: list[float]) -> list[float]:
        return values
