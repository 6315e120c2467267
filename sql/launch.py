"""Turns into a PostgreSQL program: drops root, asks for a signal when marketd dies, and execs.

A program of its own, run by path as `python -I -S launch.py …`, for two reasons. The death signal must be
asked for *after* the change of user (the kernel clears it there) and before exec, and Python's `preexec_fn`
is not safe in a process with threads. And it starts as root, because the interpreter may lie where the
database's user cannot reach it. It imports nothing of marketd: with -I its own directory is not on the
path, so that the neighbours' names (`copy.py`) hide nothing.

    launch.py UID GID GROUPS DEATH_SIGNAL PARENT_PID PROGRAM ARGUMENT…

GROUPS is comma-separated, DEATH_SIGNAL 0 asks for none.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    uid, gid, groups, death_signal, parent_pid, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)  # while we can still read what it loads
    if os.geteuid() == 0:
        os.setgroups([int(group) for group in groups.split(",") if group])
        os.setgid(int(gid))
        os.setuid(int(uid))
    os.umask(0o077)
    if int(death_signal):
        if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
        if os.getppid() != int(parent_pid):  # it died before the kernel knew that we want to be told
            sys.exit("marketd ended while it started PostgreSQL")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
