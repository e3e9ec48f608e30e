"""When the run is saved, and where its checkpoints are copied to."""

import math
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from smolplan.spec.fields import ADDED_LATER, Count, CountOrZero, SpecPart, secret_given

STORE_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "file": "fsspec"}
"""Scheme of an object store → the package that fsspec reaches it by."""


def _store_url(value: str) -> str:
    """Raises ValueError."""
    right = "write it like s3://bucket/runs, gs://bucket/runs or file:///mnt/backup"
    scheme, found, rest = value.partition("://")
    if not found or any(ord(sign) <= 32 for sign in value):
        raise ValueError(f"it is not a URL; {right}")
    if scheme not in STORE_PACKAGES:
        known = ", ".join(STORE_PACKAGES)
        raise ValueError(f"{scheme!r} is none of the stores {known}; {right}")
    has_user = "@" in rest.partition("/")[0] and scheme != "abfs"  # abfs://container@account/…
    if has_user or set("?#") & set(value):
        raise secret_given(
            f"the {scheme} URL has an @, ? or # as credentials do, which would be copied into "
            f"every run folder; give them by the environment or the store's own files, and {right}"
        )
    parts = urlsplit(value)
    if scheme == "file":
        if parts.netloc or not parts.path.strip("/"):
            raise ValueError(f"{value!r} names no absolute folder; {right}")
    elif not parts.netloc:
        raise ValueError(f"{value!r} names no bucket; {right}")
    if {".", ".."} & set(parts.path.split("/")):
        raise ValueError(f"{value!r} has . or .. in it; {right}")
    return value.rstrip("/")


StoreUrl = Annotated[str, AfterValidator(_store_url)]
"""A folder of an object store, without credentials, and without a slash at its end."""


class CheckpointSpec(SpecPart):
    every_steps: Count = Field(default=2000, description="Steps between two checkpoints.")
    keep_last: Count = Field(
        default=2, ge=2, description="Whole checkpoints kept; two, so that one may be damaged."
    )
    keep_every_steps: Annotated[Count | None, ADDED_LATER] = Field(
        default=None, description="Kept for good as well: those of every so many steps."
    )
    milestones: Annotated[tuple[Count, ...], ADDED_LATER] = Field(
        default=(), description="Steps that are saved, whenever others are, and kept for good."
    )
    keep_best: Annotated[CountOrZero, ADDED_LATER] = Field(
        default=0,
        description="Kept as well: so many of lowest held-out bits per byte. To be among them a "
        "checkpoint is evaluated while it is one of the newest.",
    )
    asynchronous: Annotated[bool, ADDED_LATER] = Field(
        default=True,
        description="Training goes on while a checkpoint is written, and waits only until each "
        "rank has a copy in its host's memory; else until it is written.",
    )
    upload_to: Annotated[StoreUrl | None, ADDED_LATER] = Field(
        default=None,
        description="Folder of an object store that every checkpoint is copied to, as s3://b/runs.",
    )

    def due(self, step: int, steps: int) -> bool:
        """Whether the run, of so many steps, is saved after this one."""
        return step == steps or step % self.every_steps == 0 or step in self.milestones

    def most_kept(self, steps: int) -> int:
        """Checkpoints that lie there at the end of a run of so many steps, at most."""
        for_good = set(self.milestones)
        if self.keep_every_steps is not None:
            apart = math.lcm(self.every_steps, self.keep_every_steps)
            for_good |= set(range(apart, steps + 1, apart))
        return self.keep_last + self.keep_best + len(for_good)
