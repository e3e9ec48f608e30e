"""Words that fit their place."""

from textwrap import shorten

SUMMARY_SIGNS = 46
"""What a line of 80 leaves to a summary beside the state and the longest name of a check."""


def brief(text: str, more: int = 0) -> str:
    """The text cut at a word's end so that it fits a summary, with how many more there are."""
    tail = f" and {more} more" if more else ""
    return shorten(text, SUMMARY_SIGNS - len(tail), placeholder=" …") + tail
