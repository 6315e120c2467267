"""Work that goes on until Ctrl-C, which is its ordinary end: a page shown again and again, a stream of lines."""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from marketd.ops.tables import Page, has_colour

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_CLEAR_ALL = "\x1b[2J"


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C ends what is inside, and so does SIGTERM (`timeout 10 marketd tail …`); both count as done."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def repeat(show: Callable[[], None], interval_seconds: float, *, times: int | None = None) -> None:
    """Call `show` every `interval_seconds`, `times` times, or until Ctrl-C."""
    with until_interrupted():
        for number in itertools.count(1):
            show()
            if number == times:
                return
            time.sleep(interval_seconds)


def watch(make: Callable[[], Page], interval_seconds: float, *, times: int | None = None) -> None:
    """Show the page that `make` gives, again and again (see `repeat`).

    On a terminal each takes the place of the one before, without a flicker; elsewhere one follows the other.
    """
    is_terminal = sys.stdout.isatty()
    if is_terminal:
        sys.stdout.write(_CLEAR_ALL)

    def show() -> None:
        text = make().text(rich=has_colour())
        sys.stdout.write(_in_place(text) if is_terminal else f"{text}\n")
        sys.stdout.flush()

    repeat(show, interval_seconds, times=times)


def _in_place(text: str) -> str:
    lines = "".join(f"{line}{_CLEAR_LINE}\n" for line in text.splitlines())
    return f"{_HOME}{lines}{_CLEAR_BELOW}"
