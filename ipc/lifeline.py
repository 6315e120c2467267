"""A process that ends with the one that started it, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> bool:
    """From now on the kernel kills this process when `parent`, which started it, is gone; False: it is already.

    SIGKILL and not a polite signal: nobody is left to notice a process that hangs, and each is built for a crash. The
    kernel watches the thread that started this process: let it be the parent's main one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    return os.getppid() == parent  # else it died between the fork and the line above: no signal will come
