"""What was asked of a venue, so that its answer can be told by its number; a refusal in the venue's words. Pure.

Some venues name the stream in the answer to a subscription, others only repeat the command's number, and some say in an
error neither. What is not told by either stays with whoever waits for it (`marketd.daemon.feeds.subscriptions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

MAX_COMMANDS = 4096  # whose streams are remembered; answers come within seconds
MAX_WORDS = 200
_WORDS = ("reason", "errorMessage", "ret_msg", "msg", "message")  # what venues call it, the most telling first
_WITHIN = ("error", "data")


class Asked:
    """The streams of each numbered SUBSCRIBE; the oldest are forgotten."""

    def __init__(self) -> None:
        self._streams: dict[int, tuple[str, ...]] = {}

    def note(self, verb: str, number: int, streams: Sequence[str]) -> None:
        if verb == "SUBSCRIBE":
            self._streams[number] = tuple(streams)
            if len(self._streams) > MAX_COMMANDS:
                del self._streams[next(iter(self._streams))]

    def of(self, number: object, name: str = "") -> tuple[str, ...]:
        """Those of a command by its number, as the venue wrote it; with `name` only those of that instrument."""
        try:
            streams = self._streams.get(int(str(number)), ())
        except ValueError:
            return ()
        return tuple(stream for stream in streams if not name or stream.endswith(f":{name}"))


def words_of(frame: bytes) -> str:
    """Why the venue refused: the text of its message, else the message itself."""
    try:
        found = _told(msgspec.json.decode(frame))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = ""
    return (found or frame.decode("utf-8", "replace"))[:MAX_WORDS]


def _told(message: Any) -> str:
    if isinstance(message, str):
        return message
    if not isinstance(message, dict):
        return ""
    texts = [text for name in _WORDS if isinstance(text := message.get(name), str) and text]
    return texts[0] if texts else next((text for name in _WITHIN if (text := _told(message.get(name)))), "")
