"""A power failure at any moment, on a modelled disk: what was acknowledged is there, the rest is cut cleanly.

One life of a journal is recorded call by call. A failure then keeps everything that was synced before it, and of the
rest any choice of sectors and renames: more chaos than a real disk makes.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_support import Kernel, append, open_journal, restored

from marketd.ipc.journal_check import check

SECTOR = 512
FRAMES = 250


class Call(NamedTuple):
    name: str
    inode: int
    position: int = 0
    data: bytes = b""
    path: str = ""


class Recorder:
    """Stands between the journal and the operating system and remembers who asked for what, in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self.acknowledged: list[tuple[int, int]] = []  # (calls made before, offset)
        self._real: dict[str, Callable[..., Any]] = {}
        for name in ("pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate", "rename"):
            self._real[name] = getattr(os, name)
            patch.setattr(os, name, getattr(self, name))

    def pwrite(self, fd: int, data: Any, position: int) -> int:
        done: int = self._real["pwrite"](fd, data, position)
        self.calls.append(Call("write", os.fstat(fd).st_ino, position, bytes(data[:done])))
        return done

    def fsync(self, fd: int) -> None:
        self._real["fsync"](fd)
        status = os.fstat(fd)
        self.calls.append(Call("sync directory" if stat.S_ISDIR(status.st_mode) else "sync", status.st_ino))

    def fdatasync(self, fd: int) -> None:
        self._real["fdatasync"](fd)
        self.calls.append(Call("sync", os.fstat(fd).st_ino))

    def ftruncate(self, fd: int, length: int) -> None:
        self._real["ftruncate"](fd, length)
        self.calls.append(Call("size", os.fstat(fd).st_ino, length))

    def posix_fallocate(self, fd: int, offset: int, length: int) -> None:
        self._real["posix_fallocate"](fd, offset, length)
        self.calls.append(Call("grow", os.fstat(fd).st_ino, offset + length))

    def rename(self, old: Path, new: Path) -> None:
        self._real["rename"](old, new)
        self.calls.append(Call("rename", os.stat(new).st_ino, path=new.name))

    def on_durable(self, offset: int) -> None:
        self.acknowledged.append((len(self.calls), offset))


class Life(NamedTuple):
    calls: list[Call]
    acknowledged: list[tuple[int, int]]
    ends: list[int]  # of frame 1, 2, …


@pytest.fixture(scope="module", params=[0, 30_000])
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Life:
    """A journal from its first segment over several rolls, with commits of one frame and of many, and with states that
    fit into a frame or do not.
    """
    kernel, ends = Kernel(request.param), []
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        with open_journal(
            tmp_path_factory.mktemp("life"), kernel, on_durable=recorder.on_durable, sync=recorder.fdatasync
        ) as journal:
            for seq in range(1, FRAMES + 1):
                kernel.fold(seq)
                ends.append(append(journal, seq, seq * 7919 % 1500))
                if seq % 7 == 0:
                    assert journal.wait_durable(ends[-1], 30)
    return Life(recorder.calls, recorder.acknowledged, ends)


def after_the_failure(calls: list[Call], rng: random.Random, directory: Path) -> None:
    """Write the directory as the disk may have it when the power fails behind the last of `calls`."""
    synced = {call.inode: index for index, call in enumerate(calls) if call.name == "sync"}
    names_synced = max((i for i, call in enumerate(calls) if call.name == "sync directory"), default=-1)
    contents: dict[int, bytearray] = {}
    names: dict[int, str] = {}
    survival = rng.choice([0.0, 0.3, 0.7, 1.0])
    for index, call in enumerate(calls):
        content = contents.setdefault(call.inode, bytearray())
        if call.name == "write":
            certain = index < synced.get(call.inode, -1)
            for at in range(0, len(call.data), SECTOR):
                if certain or rng.random() < survival:
                    piece = call.data[at : at + SECTOR]
                    start = call.position + at
                    content.extend(bytes(max(0, start + len(piece) - len(content))))
                    content[start : start + len(piece)] = piece
        elif call.name == "grow":
            content.extend(bytes(max(0, call.position - len(content))))
        elif call.name == "size":
            del content[call.position :]
        elif call.name == "rename" and (index < names_synced or rng.random() < 0.5):
            names[call.inode] = call.path
    for inode, name in names.items():
        (directory / name).write_bytes(contents[inode])


@settings(max_examples=100)
@given(st.data())
def test_a_power_failure_at_any_moment_keeps_what_was_acknowledged(life: Life, data: st.DataObject) -> None:
    moment = data.draw(st.integers(0, len(life.calls)), label="calls before the failure")
    rng = random.Random(data.draw(st.integers(0, 2**32), label="what survives"))
    promised = max((offset for before, offset in life.acknowledged if before <= moment), default=0)
    directory = Path(tempfile.mkdtemp())
    try:
        after_the_failure(life.calls[:moment], rng, directory)
        with open_journal(directory) as journal:
            count, total = restored(journal)
            assert total == sum(range(count + 1))
            assert count >= sum(end <= promised for end in life.ends)
            append(journal, count + 1)
        with open_journal(directory) as journal:
            assert restored(journal) == (count + 1, sum(range(count + 2)))
            assert journal.repairs == ()
        assert check(directory).problems == ()
    finally:
        shutil.rmtree(directory)
