"""The text: there, readable, long enough, tokenised by the spec's own tokeniser, and as it was
written; and the loader that draws from it."""

from preflight.checks.data import sources  # noqa: I001 - in the order in which they are made
from preflight.checks.data import files
from preflight.checks.data import tokeniser
from preflight.checks.data import loader

__all__ = ["files", "loader", "sources", "tokeniser"]
