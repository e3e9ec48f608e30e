"""Each machine by itself. A file a subject."""

from importlib import import_module

for _subject in ("software", "limits", "memory", "processor", "processes", "faults", "pci", "disk"):
    import_module(f"{__name__}.{_subject}")
