"""The GPUs, through NVML, the kernel's log, and work given to them. A file a subject."""

from importlib import import_module

# In the order in which they run: whether there are GPUs at all, then how they are.
for _subject in ("present", "memory", "heat", "links", "use", "kernel_log", "load"):
    import_module(f"{__name__}.{_subject}")
