"""The text: there, readable, long enough, tokenised by the spec's own tokeniser, and as it was
written; and the loader that draws from it."""

from importlib import import_module

for _subject in ("sources", "stages", "files", "tokeniser", "loader"):
    import_module(f"{__name__}.{_subject}")
