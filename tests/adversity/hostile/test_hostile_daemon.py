"""Hostile peers of a running daemon: an error that names the field or a closed peer, and the same processes go on."""

from __future__ import annotations

import http.client
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hostile_inputs import (
    CLAIMS,
    GARBAGE,
    MESSAGE_VALUES,
    NESTED,
    NOW_NS,
    YEAR_NS,
    coverage,
    hostile_parts,
    packed,
    tick,
    trades,
)
from hostile_site import ANSWER_MS, Site, packed_declare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketd.ipc import paths, protocol
from marketd.market.records import INSTRUMENT, Kind, Records
from support import eventually

SOCKETS = ("ingest", "query", "control")
FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
A = {"id": 0, "symbol": "A", "venue": "HOSTILE", "price_scale": 2, "size_scale": 8, "quote_scale": 8}
DEEP = """
import sys, zmq
socket = zmq.Context().socket(zmq.XSUB)
socket.connect(sys.argv[1])
socket.send(b"\\x01" + b"x" * 1_000_000)
socket.poll(500)
print("sent", flush=True)
socket.close(0)
"""
GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + b"\0" * 48


@pytest.fixture(autouse=True)
def serves_on(site: Site) -> Iterator[None]:
    """The same processes before and after; an honest peer's trade is acknowledged, and at the end all is stored."""
    before = site.pids()
    yield
    assert site.pids() == before
    assert site.declare({**A, "symbol": "HONEST"})["type"] == "declared"
    answer = site.send("HONEST.HOSTILE", ("trade", trades(1, first_id=site.batch + 1, ts=NOW_NS + site.batch * 10**9)))
    assert (answer["type"], answer["accepted"], answer["durable"]) == ("outcome", 1, True)
    assert site.say("query", protocol.encode(protocol.Describe(id=3)))["type"] == "description"


@pytest.mark.parametrize("name", SOCKETS)
def test_what_is_no_message_is_answered_by_a_failure(site: Site, name: str) -> None:
    large = b"\xc4" * (protocol.MAX_HEADER_BYTES - 5)
    versions = [packed({"type": word, "v": 99, "id": 5, "committed": 0}) for word in ("follow", "describe", "status")]
    with site.dealer(name) as dealer:
        for header in [*GARBAGE, *CLAIMS, *NESTED, large, *versions]:
            answer = site.ask(dealer, header)
            assert answer["type"] == "failure" and answer["code"] == "protocol_error", (header[:20], answer)
        assert site.ask(dealer, *[b"x"] * 70)["type"] == "failure"


@given(data=st.data())
@FEW
def test_random_messages_are_answered(site: Site, data: st.DataObject) -> None:
    for name in SOCKETS:
        words = {
            "ingest": ["ingest", "declare"],
            "query": ["bars", "rows", "rebuildbars"],
            "control": ["pong", "status"],
        }
        with site.dealer(name) as dealer:
            for _ in range(4):
                word = data.draw(st.sampled_from(words[name]))
                names = st.sampled_from(
                    ["instrument", "producer", "parts", "symbol", "stream", "bars", "v", "timeframes"]
                )
                fields = data.draw(st.dictionaries(names, MESSAGE_VALUES, max_size=3))
                frames = data.draw(st.lists(st.binary(max_size=40), max_size=2))
                header = data.draw(st.sampled_from([packed({"type": word, "id": 3, **fields}), *frames, b""]))
                if word == "pong" and "v" not in fields:
                    continue  # has no answer
                assert site.ask(dealer, header, *frames)["type"] in ("failure", "statusreport")


@pytest.mark.parametrize("name", [*SOCKETS, "stream"])
def test_raw_bytes_and_a_frame_of_a_gigabyte_close_the_peer(site: Site, name: str) -> None:
    ready = b"\4\x26\5READY\x0bSocket-Type\0\0\0\6DEALER\x08Identity\0\0\0\0"
    claims = [b"\2" + struct.pack(">Q", size) for size in (1 << 30, 1 << 62, 2**64 - 1)]
    junk = [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, GREETING + b"\xff" * 99, GREETING[:20]]
    for sent in [*junk, *(GREETING + ready + claim for claim in claims)]:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(30)
            peer.connect(str(site.runtime / f"{name}.sock"))
            peer.sendall(sent)
            if len(sent) < 64 or sent in junk:
                peer.shutdown(socket.SHUT_WR)
            while True:  # until it is closed
                try:
                    if not peer.recv(4096):
                        break
                except ConnectionError:
                    break


def test_peers_of_the_stream_cannot_silence_others(site: Site) -> None:
    site.declare(A)
    with site.context.socket(zmq.SUB) as honest, site.context.socket(zmq.XSUB) as hostile:
        for each in (honest, hostile):
            each.set(zmq.LINGER, 0)
            each.connect(paths.socket_url(site.runtime, "stream"))
        honest.subscribe(b"trade.HOSTILE.A.")
        for message in (b"", b"\x02trade", b"\x05trade.HOSTILE.A.", b"\x01" + b"x" * 900, b"\x00trade.HOSTILE.A."):
            hostile.send(message)
        hostile.send_multipart([b"\x01a", b"\x00b", b"c"])

        def heard() -> bool:
            answer = site.send("A.HOSTILE", ("trade", trades(1, first_id=10**6 + site.batch)))
            assert answer["accepted"] == 1
            return bool(honest.poll(200))

        eventually(heard)
        # costs it the connection, and often its life: freeing a topic so deep overflows libzmq's stack. Hence a child.
        url = paths.socket_url(site.runtime, "stream")
        child = subprocess.run([sys.executable, "-c", DEEP, url], check=False, capture_output=True, timeout=60)
        assert b"sent" in child.stdout
        while honest.poll(0):
            honest.recv_multipart()
        assert heard()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"price_scale": 19}, "price_scale"),
        ({"size_scale": -1}, "size_scale"),
        ({"tick_size": 2**63}, "tick_size"),
        ({"step_size": 0}, "step_size"),
        ({"symbol": ""}, "symbol"),
        ({"symbol": "x" * 33}, "symbol"),
        ({"symbol": "a\0b"}, "symbol"),
        ({"symbol": "a\nb"}, "symbol"),
        ({"venue": "A.B"}, "symbol"),
        ({"market": "é" * 5}, "market"),
    ],
)
def test_an_instrument_that_cannot_be_is_refused_by_field(site: Site, change: dict[str, Any], field: str) -> None:
    answer = site.declare({**A, "symbol": "REFUSED"}, {**A, **change})
    assert (answer["type"], answer["field"]) == ("failure", field)
    assert site.send("REFUSED.HOSTILE")["code"] == "unknown_instrument"  # all or none


def test_odd_names_stay_inside_the_arena_directory(site: Site) -> None:
    before = set(site.runtime.iterdir()) | set(site.runtime.parent.glob("x*"))
    names = ["../../x", "/etc/x", "%2e%2e", "%s%n", "..", ".", "☃" * 10, "A B", "'; --", "CON", "a*?"]
    for symbol in names:
        answer = site.declare({**A, "symbol": symbol, "flags": 2**62, "id": 2**63})
        assert answer["type"] == "declared", (symbol, answer)
        assert answer["instruments"][0]["flags"] == 0
        outcome = site.send(f"{symbol}.HOSTILE", ("trade", trades(1)))
        assert outcome.get("accepted") == 1, (symbol, outcome)
        asked = protocol.Rows(id=1, symbol=f"{symbol}.HOSTILE", stream="trade")
        eventually(lambda asked=asked: site.say("query", protocol.encode(asked))["type"] == "answer")  # type: ignore[misc]
    assert set(site.runtime.iterdir()) | set(site.runtime.parent.glob("x*")) == before
    eventually(site.all_is_committed, timeout=60)
    stored = {row["symbol"] for row in site.fetch("SELECT symbol FROM instruments")}
    assert set(names) <= stored


def test_conflicting_scales_agree_on_the_finest_and_the_old_id_is_refused(site: Site) -> None:
    twice = {**A, "symbol": "TWICE"}
    first = site.declare(twice, twice)["instruments"]
    assert first[0]["id"] == first[1]["id"]
    finer = site.declare({**twice, "price_scale": 8, "size_scale": 2, "tick_size": 3, "step_size": 5})["instruments"][0]
    assert (finer["price_scale"], finer["size_scale"], finer["step_size"]) == (8, 8, 5_000_000)
    assert site.declare(twice)["instruments"][0]["id"] == finer["id"]  # and no taking turns
    assert site.send(first[0]["id"], ("trade", trades(1)))["code"] == "unknown_instrument"
    assert site.send("TWICE.HOSTILE", ("trade", trades(1)))["accepted"] == 1
    both = site.declare({**A, "symbol": "BOTH"}, {**A, "symbol": "BOTH", "price_scale": 9})["instruments"]
    assert both[0]["id"] != both[1]["id"] and site.send("BOTH.HOSTILE", ("trade", trades(1)))["accepted"] == 1


@pytest.mark.parametrize(
    ("fields", "frames", "field"),
    [
        ({"producer": b"p"}, [], "producer"),
        ({"producer": b"p" * 17}, [], "producer"),
        ({"batch": -1}, [], "batch"),
        ({"batch": 2**63}, [], "batch"),
        ({"instrument": "NO.SUCH"}, [], "instrument"),
        ({"instrument": 2**64 - 1}, [], "instrument"),
        ({"instrument": -1}, [], "instrument"),
        ({"parts": [["trade", 1]]}, [], "parts"),
        ({"parts": []}, [b"x"], "parts"),
        ({"parts": [["trade", 2]]}, [bytes(64)], "parts"),
        ({"parts": [["trade", 2**63 - 1]]}, [bytes(64)], "parts"),
        ({"parts": [["trade", -1]]}, [bytes(64)], "parts[0][1]"),
        ({"parts": [["instrument", 1]]}, [bytes(INSTRUMENT.itemsize)], "parts"),
        ({"parts": [["producer", 1]]}, [bytes(32)], "parts"),
        ({"parts": [["quarantine", 1]]}, [b"x"], "parts"),
        ({"parts": [["nope", 1]]}, [b"x"], "kind"),
        ({"parts": [["tick", 0]] * 70}, [b""] * 70, "header"),
        ({"source": "x" * 10_000}, [], "source"),
        ({"timeout_ms": "soon"}, [], "timeout_ms"),
    ],
)
def test_a_batch_that_is_none_is_refused_by_field(
    site: Site, fields: dict[str, Any], frames: list[bytes], field: str
) -> None:
    site.declare(A)
    failures = site.statistics("ingest")["ingest"]["failures"]
    whole = {"type": "ingest", "id": 9, "instrument": "A.HOSTILE", "producer": b"p" * 16, "batch": 0, "parts": []}
    answer = site.say("ingest", msgspec.msgpack.encode({**whole, **fields}), *frames)
    assert (answer["type"], answer["field"], answer["id"]) == ("failure", field, 9), answer
    eventually(lambda: site.statistics("ingest")["ingest"]["failures"] > failures)


def test_batches_at_the_edges_are_served(site: Site) -> None:
    site.declare(A)
    site.batch = 2**63 - 3
    empty = trades(0)
    assert site.send("A.HOSTILE")["accepted"] == 0
    answer = site.send("A.HOSTILE", *[("trade", empty), ("tick", tick(0)[:0])] * 32, timeout_ms=-1)
    assert answer["batch"] == 2**63 - 1
    parts = [("trade", trades(1, first_id=2 * 10**6 + n)) for n in range(64)]
    site.batch = 10**6
    first = site.send("A.HOSTILE", *parts)
    assert first["accepted"] == 64
    site.batch -= 1
    again = site.send("A.HOSTILE", ("trade", trades(3, first_id=3 * 10**6)))  # its number with another content
    assert (again["repeated"], again["accepted"], again["seq"]) == (True, 64, first["seq"])
    site.batch += 1000


def test_a_batch_too_large_too_scattered_or_of_too_many_records_is_refused_whole(site: Site) -> None:
    site.declare({**A, "symbol": "LARGE"})
    ticks = np.repeat(tick(NOW_NS), protocol.MAX_BATCH_RECORDS + 1)
    scattered = trades(1000)
    scattered["ts_event"] = np.arange(1000) * 86_400 * 10**9
    for part in (("tick", ticks), ("trade", scattered), ("trade", trades(20_000)), ("trade", trades(9_000, price=-1))):
        answer = site.send("LARGE.HOSTILE", part)
        assert (answer["type"], answer.get("field")) == ("failure", "parts"), answer
        assert "pieces" in answer["message"]
    assert site.send("LARGE.HOSTILE", ("trade", trades(1000)))["accepted"] == 1000


def test_decades_between_two_trades_stop_neither_writer_nor_query(site: Site) -> None:
    site.declare({**A, "symbol": "OLD"})
    records = trades(6)
    records["ts_event"] = [0, NOW_NS, YEAR_NS, 2**63 - 1, -(2**63), -1968 * YEAR_NS % 2**62]
    answer = site.send("OLD.HOSTILE", ("trade", records))
    rules = {index: rule for index, rule, *_ in answer["refused"]}
    assert rules[3] == "max_skew" and rules[4] == "absent"
    eventually(site.all_is_committed, timeout=60)
    rows = site.fetch("SELECT t.* FROM trades t JOIN instruments USING (instrument_id) WHERE symbol = 'OLD'")
    assert len(rows) == answer["accepted"]
    pieces = site.fetch("SELECT count(*) FROM pg_inherits WHERE inhparent = 'trades'::regclass")[0][0]
    assert pieces < 100


def test_what_has_no_place_in_a_row_never_reaches_the_writer(site: Site) -> None:
    site.declare({**A, "symbol": "ROWS"})
    for record in (coverage(stream=2**31 - 1), coverage(reason=b"a\0b"), coverage(reason=b"\xff\xfe"), coverage(99)):
        answer = site.send("ROWS.HOSTILE", ("coverage", record))
        assert [refusal[1] for refusal in answer["refused"]] == ["coverage"]
    rejected = [["k\0", "r\0", "d\0", b"\0"], ["", "", "", b""]]
    assert site.send("ROWS.HOSTILE", rejected=rejected, source="s\0")["type"] == "outcome"
    for start, end in ((-(2**63) + 1, 2**63 - 1), (2**63 - 1, 2**63 - 1), (0, -(2**63))):
        assert site.send("ROWS.HOSTILE", ("coverage", coverage(2, start=start, end=end)))["accepted"] == 1
    huge = trades(2, size=2**62, price=1)
    assert [r[1] for r in site.send("ROWS.HOSTILE", ("trade", huge))["refused"]] == ["range", "range"]
    assert site.send("ROWS.HOSTILE", ("trade", trades(2)))["accepted"] == 2


@given(parts=hostile_parts())
@FEW
def test_arbitrary_records_are_stored_or_refused(site: Site, parts: list[tuple[Kind, Records]]) -> None:
    site.declare({**A, "symbol": "FUZZ"})
    answer = site.send("FUZZ.HOSTILE", *((kind.name, records) for kind, records in parts))
    assert answer["type"] == "outcome", answer
    assert answer["accepted"] + len(answer["refused"]) == sum(len(records) for _, records in parts)


@pytest.mark.parametrize("committed", [2**63 - 1, 2**64 - 1, -1, 2**40])
def test_nobody_can_claim_to_have_stored_what_is_not_on_disk(site: Site, committed: int) -> None:
    answer = site.say("ingest", packed({"type": "follow", "id": 1, "committed": committed}))
    assert (answer["type"], answer["field"]) == ("failure", "committed")
    told = site.say("ingest", packed({"type": "follow", "id": 1, "committed": 0}))
    with site.dealer("ingest") as dealer:
        answer = site.ask(dealer, packed({"type": "committed", "journal": told["journal"], "offset": committed}))
        assert answer["type"] == "failure"
    assert site.statistics("ingest")["committed_offset"] <= site.statistics("ingest")["journal"]["durable"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": "bars", "symbol": "A.HOSTILE", "timeframes": [0]}, "timeframes[0]"),
        ({"type": "bars", "symbol": "A.HOSTILE", "timeframes": [2**63]}, "timeframes[0]"),
        ({"type": "bars", "symbol": "A.HOSTILE", "timeframes": [60] * 1000}, "timeframes"),
        ({"type": "bars", "symbol": "A.HOSTILE", "timeframes": [60], "limit": -1}, "limit"),
        ({"type": "bars", "symbol": "A.HOSTILE", "timeframes": [60], "limit": 2**63}, "limit"),
        ({"type": "bars", "symbol": "A.HOSTILE", "timeframes": [60], "start": 2**63}, "start"),
        ({"type": "bars", "symbol": "A.HOSTILE", "timeframes": [60], "start": 5, "end": 4}, "start"),
        ({"type": "bars", "symbol": "A.HOSTILE", "timeframes": [60], "bar_source": "x"}, "bar_source"),
        ({"type": "bars", "symbol": "\0'--", "timeframes": [60]}, "symbol"),
        ({"type": "rows", "symbol": "A.HOSTILE", "stream": "quarantine"}, "stream"),
        ({"type": "rows", "symbol": "A.HOSTILE", "stream": "trades; --"}, "kind"),
        ({"type": "rows", "symbol": "A.HOSTILE", "stream": "trade", "known_at": float("nan")}, "known_at"),
        ({"type": "rebuildbars", "instrument": 1, "bars": [[0, 0]]}, "bars[0][0]"),
        ({"type": "rebuildbars", "instrument": 2**63, "bars": []}, "instrument"),
    ],
)
def test_a_question_that_is_none_is_refused_by_field(site: Site, fields: dict[str, Any], field: str) -> None:
    site.declare(A)
    answer = site.say("query", packed({"id": 4, **fields}))
    assert (answer["type"], answer.get("field"), answer["id"]) == ("failure", field, 4), answer


@pytest.mark.parametrize("timeout_ms", [-(2**63), 0, 2**63, 2**64 - 1])
def test_absurd_timeouts_are_answered(site: Site, timeout_ms: int) -> None:
    answer = site.say("query", packed({"type": "describe", "id": 4, "timeout_ms": timeout_ms}))
    assert answer["type"] == ("description" if timeout_ms > 0 else "failure")


@pytest.mark.parametrize("edge", [-(2**63), 2**63 - 1, 0])
@pytest.mark.parametrize("format_", ["records", "copy", "json"])
def test_spans_at_the_edges_of_time_are_answered(site: Site, edge: int, format_: str) -> None:
    site.declare(A)
    for fields in ({"start": edge}, {"end": edge}, {"known_at": edge}, {"limit": 1_000_000}):
        for question in (
            {"type": "rows", "symbol": "A.HOSTILE", "stream": "trade"},
            {"type": "rows", "symbol": "A.HOSTILE", "stream": "coverage"},
            {"type": "rows", "symbol": "A.HOSTILE", "stream": "hostile"},
            {"type": "bars", "symbol": "A.HOSTILE", "timeframes": [1, 60, 86_400, 2**31 - 1 - (2**31 - 1) % 3600]},
        ):
            answer = site.say("query", packed({"id": 4, "format": format_, **question, **fields}))
            is_future = fields.get("known_at", 0) > time.time_ns()
            assert answer["type"] == ("failure" if is_future else "answer"), (question, fields, answer)


def test_the_pages_outlive_garbage_and_silent_peers(site: Site) -> None:
    silent = [socket.create_connection(("127.0.0.1", site.port), timeout=30) for _ in range(40)]
    for junk in (b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"GET " + b"/" * 70_000, b"POST /metrics HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", site.port), timeout=30) as peer:
            try:
                peer.sendall(junk)
                peer.shutdown(socket.SHUT_WR)
                peer.recv(1000)
            except ConnectionError:
                continue
    headers = b"GET /health HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as peer:
        peer.sendall(headers)
        assert peer.recv(1000)
    for path in ("/health", "/metrics", "/../../etc/passwd", "/%00", "/health?" + "x" * 1000):
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
        connection.request("GET", path)
        with connection.getresponse() as answer:
            assert answer.status in (200, 404), path
        connection.close()
    for peer in silent:
        peer.close()


def test_a_flood_of_requests_is_answered_or_told_to_come_back(site: Site) -> None:
    header = packed({"type": "describe", "id": 4})
    with site.dealer("query") as dealer:
        for _ in range(600):
            dealer.send(header)
        types = set()
        for _ in range(600):
            assert dealer.poll(ANSWER_MS)
            answer = msgspec.msgpack.decode(dealer.recv_multipart()[0])
            types.add(answer.get("code") or answer["type"])
    assert types <= {"description", "busy"}
    assert packed_declare()  # none at all is no harm
    assert site.declare()["type"] == "declared"
