"""Hooks and fixtures for every test: tools of the machine, recorded data, a count of what is left open."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import hypothesis
import pytest

from support import check_tool_names, demand, eventually, required_tools

# No deadline: a busy machine is no bug, and no test asserts a maximum runtime.
hypothesis.settings.register_profile("marketd", deadline=None, print_blob=True)
hypothesis.settings.load_profile("marketd")

_SHM = Path("/dev/shm")
_FREE_BYTES = 8 << 30  # of shared memory; a whole run takes less than half of it
_SCRATCH = pytest.StashKey[Path]()
_instance_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    _work_in_memory(config)
    try:
        required_tools()
    except ValueError as error:
        raise pytest.UsageError(f"MARKETD_TESTS_REQUIRE: {error}") from None
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a shell starts a job in the background (`make test &`) deaf to Ctrl-C, and so would be all that we start
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (scratch := config.stash.get(_SCRATCH, None)) is not None:
        shutil.rmtree(scratch, ignore_errors=True)


def _work_in_memory(config: pytest.Config) -> None:
    """Temporary files lie in shared memory where it has room, as the tests' servers make and drop thousands of files,
    and no test pulls the plug of the machine. TMPDIR names another place."""
    if os.environ.get("TMPDIR") or not _SHM.is_dir() or shutil.disk_usage(_SHM).free < _FREE_BYTES:
        return
    scratch = Path(tempfile.mkdtemp(prefix="mt-", dir=_SHM))  # short, for the sake of sockets' addresses
    scratch.chmod(0o711)  # the database's user passes through
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    config.stash[_SCRATCH] = scratch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture starts a server that is not there."""
    for mark in item.iter_markers("requires"):
        check_tool_names(mark.args)
        for tool in mark.args:
            demand(tool)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The recorded exchange traffic: MARKETD_SHARED_DATA, else shared/data beside the repository."""
    return demand("shared_data")


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """A runtime directory in shared memory as a daemon has one, removed afterwards with all that is in it."""
    path = _SHM / f"marketd-test-{os.getpid()}-{next(_instance_numbers)}"
    path.mkdir(mode=0o750)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session", autouse=True)
def _resource_tracker() -> None:
    """multiprocessing opens this pipe at its first spawn and keeps it; earlier, it is nobody's leak."""
    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def nothing_left_open(_resource_tracker: None) -> Iterator[None]:
    """Fails a test that leaves file descriptors or shared-memory files behind.

    Descriptors are counted, not compared: their numbers are reused. Set up first and so torn down last,
    after the test's own fixtures; those of a wider scope are open before and after.
    """
    files, shm = _open_files(), _shm_files()
    yield
    if _is_clean(files, shm):
        return
    gc.collect()  # an object in a reference cycle closes its file only now
    try:
        eventually(lambda: _is_clean(files, shm), timeout=10.0)  # zmq closes its sockets in a thread
    except AssertionError:
        new_files = sorted(set(_open_files().items()) - set(files.items()))
        new_shm = sorted(_shm_files() - shm)
        pytest.fail(f"left open: descriptors {new_files}, shared memory {new_shm}", pytrace=False)


def _is_clean(files: dict[int, str], shm: set[str]) -> bool:
    return len(_open_files()) <= len(files) and _shm_files() <= shm


def _open_files() -> dict[int, str]:
    links: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            links[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own descriptor, closed by now
    return links


def _shm_files() -> set[str]:
    """This run's instances in shared memory: a daemon that somebody runs meanwhile is none of ours."""
    return {path.name for path in _SHM.glob(f"marketd-test-{os.getpid()}-*")}
