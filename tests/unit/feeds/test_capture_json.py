"""cryptofeed's captures of one JSON object a line."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from marketd.daemon.feeds.captures import CaptureLine, CaptureReader
from marketd.daemon.feeds.recorded_venue import recorded_venue

HEADER = {"t": "header", "format": 2, "exchange": "KRAKEN", "config": {}}
URL = "wss://ws.kraken.com"
START_NS = 1_618_678_132_000_000_000


def event(kind: str, conn: str, second: float, **more: Any) -> dict[str, Any]:
    return {"t": kind, "conn": conn, "ts": START_NS / 10**9 + second, **more}


def written(tmp_path: Path, *lines: Any) -> CaptureReader:
    path = tmp_path / "KRAKEN.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return CaptureReader(path)


def test_each_kind_of_line_is_read(tmp_path: Path) -> None:
    reader = written(
        tmp_path,
        HEADER,
        event("http", "KRAKEN.http.0", 0, url="https://api.kraken.com/0/public/Time", data="{}", headers={"a": "b"}),
        event("connect", "KRAKEN.ws.1", 1, addr=URL),
        event("send", "KRAKEN.ws.1", 2, addr=URL, data='{"event":"ping"}'),
        event("recv", "KRAKEN.ws.1", 3.25, data='{"event":"pong"}'),
    )
    assert reader.format == "json"
    at = [START_NS + round(second * 10**9) for second in (0, 1, 2, 3.25)]
    assert list(reader) == [
        CaptureLine(at[0], "rest", "https://api.kraken.com/0/public/Time", b"{}", "KRAKEN.http.0"),
        CaptureLine(at[1], "connect", URL, b"", "KRAKEN.ws.1"),
        CaptureLine(at[2], "sent", URL, b'{"event":"ping"}', "KRAKEN.ws.1"),
        CaptureLine(at[3], "ws", URL, b'{"event":"pong"}', "KRAKEN.ws.1"),
    ]
    assert (reader.skipped, reader.damage) == ({"header": 1}, None)
    assert recorded_venue([reader.path], None) == "KRAKEN"


def test_connections_that_stand_one_after_the_other_are_read_in_order_of_time(tmp_path: Path) -> None:
    other = "wss://ws.kraken.com/v2"
    reader = written(
        tmp_path,
        HEADER,
        *(event("recv", "1", second, data=str(second)) for second in (1, 3)),
        event("connect", "2", 0, addr=other),
        *(event("recv", "2", second, data=str(second)) for second in (2, 4)),
    )
    found = list(reader)
    assert [line.payload for line in found] == [b"", b"1", b"2", b"3", b"4"]
    assert [line.url for line in found] == [other, "", other, "", other]  # each by its own connection
    assert [line.conn for line in found] == ["2", "1", "2", "1", "2"]


def test_bytes_stand_there_in_base_64_packed_or_not(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(b'{"table":"spot/trade"}') + packer.flush()
    texts = [base64.b64encode(each).decode() for each in (packed, b'{"event":"pong"}')]
    reader = written(tmp_path, HEADER, *(event("recv", "1", 1, b64=text) for text in texts))
    assert [line.payload for line in reader] == [b'{"table":"spot/trade"}', b'{"event":"pong"}']


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    reader = written(
        tmp_path,
        HEADER,
        "",
        '{"t":"recv","conn":',
        event("guess", "1", 1),
        {"t": "recv", "conn": "1", "ts": "soon", "data": "{}"},
        {"t": "recv", "conn": "1", "ts": 1e30, "data": "{}"},
        event("recv", "1", 1, b64="not base 64!"),
        event("recv", "1", 1, b64=base64.b64encode(b"\x1f\x8bgarbage").decode()),
        event("recv", "1", 1, data="{}"),
    )
    assert len(list(reader)) == 1
    assert reader.skipped == {"header": 1, "blank": 1, "unreadable": 6}
