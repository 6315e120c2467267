"""Files of one recording are read in the order in which their lines were received."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from marketd.daemon.feeds.capture_order import merged
from marketd.daemon.feeds.captures import CaptureReader, in_order

SECOND = 10**9
START = 1_618_678_132


class Event(NamedTuple):
    recv_ns: int
    name: str


class Source:
    """Knows how many of its kind are open."""

    open = 0
    most = 0

    def __init__(self, *events: Event) -> None:
        self.events = events

    def __call__(self) -> Iterator[Event]:
        Source.open += 1
        Source.most = max(Source.most, Source.open)
        try:
            yield from self.events
        finally:
            Source.open -= 1


def test_what_was_received_at_the_same_time_by_two_is_told_in_turns() -> None:
    left = Source(Event(1, "a"), Event(4, "c"), Event(9, "e"))
    right = Source(Event(2, "b"), Event(4, "d"))
    assert [(number, event.name) for number, event in merged([left, right])] == [
        (0, "a"),
        (1, "b"),
        (0, "c"),
        (1, "d"),
        (0, "e"),
    ]


def test_the_order_within_a_file_stands_whatever_its_clock_did() -> None:
    stepped = Source(Event(5, "a"), Event(2, "b"), Event(6, "c"))
    other = Source(Event(3, "x"), Event(5, "y"))
    assert [event.name for _, event in merged([stepped, other])] == ["x", "a", "b", "y", "c"]


def test_files_that_follow_one_another_are_open_one_at_a_time() -> None:
    Source.open = Source.most = 0
    hours = [Source(Event(10 * hour, str(hour)), Event(10 * hour + 9, f"{hour} end")) for hour in range(50)]
    found = [event.name for _, event in merged([*reversed(hours), Source()])]
    assert found == [name for hour in range(50) for name in (str(hour), f"{hour} end")]
    assert (Source.open, Source.most) == (0, 1)


def written(path: Path, *lines: str) -> CaptureReader:
    path.write_text("".join(f"{line}\n" for line in lines))
    return CaptureReader(path)


def test_answers_in_a_file_of_their_own_come_where_they_came(tmp_path: Path) -> None:
    url = "https://api.binance.com/api/v3/depth?symbol=BTCUSDT"
    answers = written(tmp_path / "http", f"{url} -> {START + 2}.5: {{}}")
    messages = written(
        tmp_path / "ws",
        f"wss://stream.binance.com:9443/stream <-> {START}.5",
        *(f'{START + second}.0: {{"n":{second}}}' for second in (1, 2, 3)),
    )
    for readers in ([answers, messages], [messages, answers]):
        found = list(in_order(readers, "BINANCE"))
        assert [line.kind for _, line in found] == ["connect", "ws", "ws", "rest", "ws"]
        assert [line.recv_ns for _, line in found] == sorted(line.recv_ns for _, line in found)
        assert all(reader.is_over for reader in readers)


def test_a_file_is_over_once_its_last_line_was_read(tmp_path: Path) -> None:
    first = written(tmp_path / "1", f'{START}.0: {{"n":1}}', f'{START + 5}.0: {{"n":4}}')
    second = written(tmp_path / "2", f'{START + 1}.0: {{"n":2}}', f'{START + 2}.0: {{"n":3}}', f"{START + 9}.0: {{}}")
    over = [(first.is_over, second.is_over) for _ in in_order([first, second])]
    assert over == [(False, False)] * 4 + [(True, False)]


def test_another_venues_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    reader = written(
        tmp_path / "both",
        f"wss://stream.bybit.com/v5/public/linear <-> {START}.0",
        f'{START}.1: {{"topic":"orderbook.50.BTCUSDT"}}',
        f"wss://stream.bybit.com/v5/public/spot <-> {START}.2",
        f'{START}.3: {{"topic":"orderbook.50.BTCUSDT"}}',
        f'{START}.4: {{"topic":"orderbook.50.BTCUSDT"}}',
    )
    assert len(list(in_order([reader]))) == 5
    assert [line.url.rpartition("/")[2] for _, line in in_order([reader], "BYBIT_LINEAR")] == ["linear"] * 2
    assert reader.skipped == {"of another venue": 3}


def test_a_bare_snapshot_is_of_the_one_symbol_of_its_file(tmp_path: Path) -> None:
    snapshot = '{"lastUpdateId":7,"bids":[],"asks":[]}'

    def urls(*streams: str) -> list[str]:
        lines = [f'{START}00000000{n} {{"stream":"{stream}","data":{{}}}}' for n, stream in enumerate(streams)]
        return [line.url for line in written(tmp_path / "raw", *lines, f"{START}000000009 {snapshot}") if line.url]

    assert urls("btcusdt@trade", "btcusdt@depth@0ms") == ["depth?symbol=BTCUSDT"]
    assert urls("btcusdt@trade", "ethusdt@trade") == ["depth"]
