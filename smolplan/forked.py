"""A process forked from one that has imported what it needs."""

import os
import runpy
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def be_module(module: str, arguments: list[str], prepare: Callable[[], None]) -> NoReturn:
    """In the child: `prepare`, then be `python -m MODULE ARGUMENTS` to its end."""
    code = 1
    try:
        prepare()
        sys.argv = [module, *arguments]
        # runpy warns of a module that was imported before it is run; that is the point here.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
