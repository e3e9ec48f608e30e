"""The GPUs, through NVML, the kernel's log, and work given to them. A file a subject."""

from importlib import import_module

for _subject in ("count", "formats", "heat", "kernel_log", "links", "memory", "use", "work"):
    import_module(f"{__name__}.{_subject}")
