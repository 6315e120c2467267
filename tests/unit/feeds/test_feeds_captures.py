"""Recorded traffic: both formats, damage, and what marketd writes itself."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.feeds.captures import (
    CaptureLine,
    CaptureReader,
    CaptureUnreadable,
    read_captures,
    time_to_ns,
)
from marketd.daemon.feeds.survey import survey
from marketd.market.errors import InvalidArgument

RAW = (
    b'1723161253937085768 {"stream":"a@trade","data":{}}\n1723161254036059768 {"lastUpdateId":1,"bids":[],"asks":[]}\n'
)
CRYPTOFEED = b"""
configuration: {"x": 1}
wss://stream.binance.com:9443/stream?streams=a <-> 1617566590.378895
wss://stream.binance.com:9443/stream?streams=a <- 1617566590.4: {"method":"SUBSCRIBE"}
1617566591.326123: {"stream":"a@trade","data":{}}
https://www.binance.com/api/v1/depth?symbol=DOTUSDT&limit=1000 -> 1617566592.1065369: {"lastUpdateId":1}
nonsense
"""


def written(path: Path, data: bytes, *, compressed: bool = False) -> Path:
    path.write_bytes(gzip.compress(data) if compressed else data)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_the_raw_format_is_read(tmp_path: Path, compressed: bool) -> None:
    reader = CaptureReader(written(tmp_path / "x", RAW, compressed=compressed))
    assert reader.format == "raw"
    assert list(reader) == [
        CaptureLine(1723161253937085768, "ws", "", b'{"stream":"a@trade","data":{}}'),
        CaptureLine(1723161254036059768, "rest", "depth?symbol=A", b'{"lastUpdateId":1,"bids":[],"asks":[]}'),
    ]
    assert reader.damage is None


def test_cryptofeeds_format_is_read(tmp_path: Path) -> None:
    reader = CaptureReader(written(tmp_path / "x", CRYPTOFEED))
    lines = list(reader)
    assert reader.format == "cryptofeed"
    assert [(line.kind, line.recv_ns) for line in lines] == [
        ("connect", 1617566590378895000),
        ("sent", 1617566590400000000),
        ("ws", 1617566591326123000),
        ("rest", 1617566592106536900),
    ]
    assert lines[2].url == "wss://stream.binance.com:9443/stream?streams=a"
    assert lines[3].url.endswith("symbol=DOTUSDT&limit=1000")
    assert lines[3].payload == b'{"lastUpdateId":1}'
    assert reader.skipped == {"blank": 1, "configuration": 1, "unreadable": 1}


def test_a_reader_can_be_read_again(tmp_path: Path) -> None:
    reader = CaptureReader(written(tmp_path / "x", CRYPTOFEED))
    assert list(reader) == list(reader)
    assert reader.skipped.total() == 3


def test_a_torn_gzip_tail_is_read_up_to_the_damage_which_is_reported(tmp_path: Path) -> None:
    lines = [b'%d {"stream":"a@trade","data":{"t":%d}}\n' % (1723161253937085768 + n, n * 7919) for n in range(5000)]
    whole = gzip.compress(b"".join(lines))
    reader = CaptureReader(written(tmp_path / "x", whole[: len(whole) // 2]))
    read = list(reader)
    assert 1000 < len(read) < 5000
    assert [line.payload for line in read] == [line.split(b" ", 1)[1].rstrip() for line in lines[: len(read)]]
    assert reader.damage is not None
    assert f"after line {len(read)}" in reader.damage


def test_flipped_bytes_in_a_gzip_file_are_reported(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(RAW * 2000))
    data[-6] ^= 0xFF  # its checksum
    reader = CaptureReader(written(tmp_path / "x", bytes(data)))
    assert len(list(reader)) >= 1
    assert reader.damage is not None


def test_a_cut_off_last_line_of_text_is_reported_and_a_whole_one_is_read(tmp_path: Path) -> None:
    torn = CaptureReader(written(tmp_path / "torn", RAW[:-5]))
    assert len(list(torn)) == 1
    assert torn.damage is not None
    whole = CaptureReader(written(tmp_path / "whole", RAW[:-1]))
    assert len(list(whole)) == 2
    assert whole.damage is None


@pytest.mark.parametrize("data", [b"", b"date,open,high\n", b"\x00\x01\x02\n", b"\n\n\n", b"\x1f\x8b\x00"])
def test_what_is_no_capture_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CaptureUnreadable, match="x"):
        CaptureReader(written(tmp_path / "x", data))


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, gzip.compress])
def test_whatever_packed_a_file_it_is_read(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    assert len(list(CaptureReader(written(tmp_path / "x", pack(RAW))))) == 2
    torn = CaptureReader(written(tmp_path / "torn", pack(RAW * 12_000)[:-40]))
    assert list(torn) or torn.damage
    assert torn.damage is not None


def test_zstandard_is_read_where_pyarrow_is_and_refused_in_plain_words_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow = pytest.importorskip("pyarrow")
    with arrow.CompressedOutputStream(str(tmp_path / "x"), "zstd") as file:
        file.write(RAW)
    assert len(list(CaptureReader(tmp_path / "x"))) == 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CaptureUnreadable, match="zstd -d"):
        CaptureReader(tmp_path / "x")


@pytest.mark.parametrize("written_as", ["1723161253", "1723161253000", "1723161253000000", "1723161253000000000"])
def test_times_of_any_unit_are_told_by_their_magnitude(tmp_path: Path, written_as: str) -> None:
    for line in (f'{written_as} {{"e":1}}\n', f'{written_as}: {{"e":1}}\n'):
        (read,) = CaptureReader(written(tmp_path / "x", line.encode()))
        assert read.recv_ns == 1723161253 * 10**9
    assert time_to_ns("1723161253000.25") == 1723161253000250000


def test_a_file_may_begin_in_the_middle_of_a_line_and_with_a_mark(tmp_path: Path) -> None:
    reader = CaptureReader(written(tmp_path / "x", b'01","q":"2"}}\n' + RAW))
    assert len(list(reader)) == 2
    assert reader.skipped == {"unreadable": 1}
    assert len(list(CaptureReader(written(tmp_path / "y", b"\xef\xbb\xbf" + RAW)))) == 2


def test_answers_with_headers_and_messages_that_came_as_bytes_are_read_as_they_were(tmp_path: Path) -> None:
    packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = packed.compress(b'{"b":2}') + packed.flush()
    lines = [
        'https://x/depth -> 1617566592.1: {"a":1} header: {"Date": "x"}',
        f"1617566592.2: {b'pong'!r}",
        f"1617566592.3: {deflated!r}",
        "1617566592.4: b'\\xff\\xfe'",
    ]
    reader = CaptureReader(written(tmp_path / "x", "".join(f"{line}\n" for line in lines).encode()))
    assert [line.payload for line in reader] == [b'{"a":1}', b"pong", b'{"b":2}']
    assert reader.skipped == {"unreadable": 1}


def test_a_missing_file_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureUnreadable, match="No such file"):
        CaptureReader(tmp_path / "nowhere.gz")
    with pytest.raises(InvalidArgument):
        read_captures([])


@given(st.binary(max_size=300))
def test_any_bytes_after_a_good_line_raise_nothing(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "x", RAW + data)
        assert len(list(CaptureReader(path))) >= 2
        damaged = written(Path(folder) / "y", gzip.compress(RAW * 50)[:-12] + data)
        with contextlib.suppress(CaptureUnreadable):
            list(CaptureReader(damaged))


def test_decimal_seconds_become_nanoseconds_exactly() -> None:
    assert time_to_ns("1617566590.378895") == 1617566590378895000
    assert time_to_ns("1617566590") == 1617566590 * 10**9
    assert time_to_ns("1.1234567891") == 1123456789
    with pytest.raises(InvalidArgument):
        time_to_ns("-1")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path, "BINANCE")
    writer.connected(1_700_000_000_000_000_001, "wss://venue/stream?streams=a")
    writer.rest(1_700_000_000_000_000_002, "https://venue/api?symbol=X&limit=5", b'[{"id":1}]')
    writer.sent(1_700_000_000_000_000_003, b'{"method":"SUBSCRIBE"}')
    writer.frames(1_700_000_000_000_000_004, [b'{"stream":"a","data":1}', b'{"x":\n2}'])
    writer.close()
    (path,) = tmp_path.iterdir()
    assert path.name == "BINANCE-20231114T221320.000000.gz"
    reader = CaptureReader(path)
    assert (reader.format, reader.venue, reader.url) == ("marketd", "BINANCE", "wss://venue/stream?streams=a")
    assert list(reader) == [
        CaptureLine(1_700_000_000_000_000_001, "connect", "wss://venue/stream?streams=a", b""),
        CaptureLine(1_700_000_000_000_000_002, "rest", "https://venue/api?symbol=X&limit=5", b'[{"id":1}]'),
        CaptureLine(1_700_000_000_000_000_003, "sent", "wss://venue/stream?streams=a", b'{"method":"SUBSCRIBE"}'),
        CaptureLine(1_700_000_000_000_000_004, "ws", "wss://venue/stream?streams=a", b'{"stream":"a","data":1}'),
        CaptureLine(1_700_000_000_000_000_004, "ws", "wss://venue/stream?streams=a", b'{"x": 2}'),
    ]
    assert reader.skipped == {"header": 1}
    assert writer.statistics().lines == 5


def test_a_killed_writer_loses_only_what_came_after_the_last_flush(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path, "BINANCE")
    writer.frames(1_700_000_000_000_000_000, [b'{"n":1}'] * 100)
    writer.flush()
    writer.frames(1_700_000_000_000_000_000, [b'{"n":2}'] * 100)
    (path,) = tmp_path.iterdir()
    snapshot = written(tmp_path / "as-it-was", path.read_bytes())
    writer.close()
    reader = CaptureReader(snapshot)
    assert [line.payload for line in reader][:100] == [b'{"n":1}'] * 100
    assert reader.damage is not None


def test_files_rotate_by_size_and_by_age(tmp_path: Path) -> None:
    now = [0.0]
    writer = CaptureWriter(tmp_path, "BINANCE", rotate_bytes=100, rotate_seconds=10.0, clock=lambda: now[0])
    for number in range(4):  # the same receive time: names must differ all the same
        writer.frames(1_700_000_000_000_000_000, [b'{"n":%d}' % number] * (10 if number < 2 else 1))
    now[0] = 11.0
    writer.frames(1_700_000_000_000_000_000, [b"{}"])
    writer.close()
    readers = [CaptureReader(path) for path in tmp_path.iterdir()]
    assert len(readers) == writer.statistics().files == 4
    assert sum(len(list(reader)) for reader in readers) == 23


def test_the_oldest_files_go_when_the_directory_is_beyond_its_budget(tmp_path: Path) -> None:
    other = written(tmp_path / "BINANCE-notes.txt", b"kept")
    writer = CaptureWriter(tmp_path, "BINANCE", rotate_bytes=1, budget_bytes=300)
    for number in range(20):
        writer.frames(1_700_000_000_000_000_000 + number * 10**9, [b'{"n":%d}' % number])
    writer.close()
    left = sorted(path.name for path in tmp_path.glob("*.gz"))
    assert writer.statistics().deleted_files == 20 - len(left) > 10
    assert left[-1] == "BINANCE-20231114T221339.000000.gz"
    assert other.exists()


def test_settings_of_a_writer_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        CaptureWriter(tmp_path, "BINANCE", rotate_bytes=0)


def test_a_recording_says_its_symbols_scales_and_streams(shared_data: Path) -> None:
    found = survey([shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"])
    scales = {i.symbol: (i.price_scale, i.size_scale, i.base, i.quote) for i in found.instruments}
    assert scales == {
        "BTCUSDT": (2, 6, "BTC", "USDT"),
        "ETHUSDT": (2, 5, "ETH", "USDT"),
        "DOTUSDT": (4, 2, "DOT", "USDT"),
    }
    assert (found.trades, found.candles) == ("aggTrade", ("1m",))


def test_every_recorded_file_of_both_formats_can_be_read(shared_data: Path) -> None:
    for path in sorted([*shared_data.glob("ws_cryptofeed/*.gz")]):
        reader = CaptureReader(path)
        assert sum(1 for _ in reader) > 0
        assert reader.damage is None
        assert not set(reader.skipped) - {"blank", "configuration"}, path.name
