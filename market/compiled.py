"""The part of marketd that may be compiled: what a message of an order book costs, and a compressed batch, in C
(`market/c/`).

`part` is the module, or None where the same is done in Python: whoever has something quicker in C asks here. It is
built when marketd is installed where a C compiler and Python's headers are; nothing depends on it. The environment
variable MARKETD_PURE_PYTHON=1 passes over it.
"""

from __future__ import annotations

import os
from types import ModuleType

INTERFACE = 5  # of market/c/compiled.h: a part that was built of other sources is not used
PURE_PYTHON = "MARKETD_PURE_PYTHON"


def _found() -> tuple[ModuleType | None, str]:
    """The module if it is to be used, and in words what became of it."""
    if os.environ.get(PURE_PYTHON, "") not in ("", "0"):
        return None, f"not used, since {PURE_PYTHON} is set"
    try:
        from marketd.market import _compiled
    except (ImportError, AttributeError) as error:  # one of other sources may miss a name that it asks for
        return None, f"not built ({error})"
    if _compiled.INTERFACE != INTERFACE:
        return None, "not used, since it was built of other sources: install marketd anew"
    return _compiled, "in use"


part, STANDING = _found()
