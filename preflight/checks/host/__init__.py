"""Each machine by itself. A file a subject."""

from importlib import import_module

for _subject in ("disk", "faults", "limits", "memory", "pci", "processes", "processor", "software"):
    import_module(f"{__name__}.{_subject}")
