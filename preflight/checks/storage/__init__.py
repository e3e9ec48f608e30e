"""The storage that run directories go to, and the tokens come from: it answers, keeps its promises,
has room, and is fast enough.

All of it is asked in processes of its own: a network file system whose server is gone blocks
whoever touches it.
"""

from importlib import import_module

for _subject in (
    *("mounts", "promises", "space", "scratch", "speed", "together", "sustained"),
    "object_store",
):
    import_module(f"{__name__}.{_subject}")
