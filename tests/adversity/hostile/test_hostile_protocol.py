"""Decoder and read_part against arbitrary bytes: a message or a ProtocolError, quickly and in little memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hostile_inputs import CLAIMS, GARBAGE, GIGABYTE, KINDS, MESSAGE_VALUES, NESTED, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.ipc import protocol, sockets
from marketd.ipc.protocol import Decoder
from marketd.market.errors import ProtocolError

DECODERS = [
    Decoder(union)
    for union in (
        protocol.ToIngest,
        protocol.FromIngest,
        protocol.ToQuery,
        protocol.FromQuery,
        protocol.Control,
        protocol.FromControl,
        protocol.ToSupervisor,
        protocol.FromSupervisor,
    )
]
WORDS = ["ingest", "declare", "follow", "committed", "bars", "rows", "rebuildbars", "pong", "ping", "outcome", "nope"]
FIELDS = ["v", "id", "timeout_ms", "batch", "producer", "parts", "instrument", "instruments", "symbol", "timeframes"]


def survives(header: bytes) -> None:
    assert isinstance(protocol.request_id(header), int)
    for decoder in DECODERS:
        try:
            message = decoder.decode(header)
        except ProtocolError as error:
            protocol.encode(sockets.failure(error))
        else:
            assert message.v == protocol.VERSION
            protocol.encode(message)


@given(header=st.binary(max_size=200))
def test_random_bytes(header: bytes) -> None:
    survives(header)


@given(
    word=st.sampled_from(WORDS),
    fields=st.dictionaries(st.sampled_from([*FIELDS, "source", "rejected", "committed", "nope"]), MESSAGE_VALUES),
    cut=st.integers(0, 40),
)
@settings(max_examples=300)
def test_messages_with_fields_of_any_type_whole_and_cut(word: str, fields: dict[str, Any], cut: int) -> None:
    header = packed({"type": word, **fields})
    survives(header)
    survives(header[:-cut])


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[:1].hex())
def test_a_length_of_a_gigabyte_is_not_believed(claim: bytes) -> None:
    tracemalloc.start()
    try:
        survives(claim)
        for field in (b"id", b"parts", b"producer", b"instruments", b"timeframes", b"bars", b"statistics"):
            for word in (b"ingest", b"declare", b"bars", b"rebuildbars", b"pong"):
                survives(
                    b"\x82\xa4type" + bytes([0xA0 + len(word)]) + word + bytes([0xA0 + len(field)]) + field + claim
                )
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("header", [*GARBAGE, *NESTED, b"\xc4" * (protocol.MAX_HEADER_BYTES + 1)], ids=range(10))
def test_known_garbage(header: bytes) -> None:
    survives(header)


@given(
    kind=st.sampled_from(list(KINDS.values())), count=st.integers(-(2**63), 2**64 - 1), payload=st.binary(max_size=300)
)
def test_parts_are_whole_or_refused(kind: Any, count: int, payload: bytes) -> None:
    for number in (count, len(payload) // kind.dtype.itemsize, -(len(payload) // kind.dtype.itemsize)):
        try:
            records = protocol.read_part(kind, number, payload)
        except ProtocolError as error:
            assert error.field == "parts"
        else:
            assert len(records) == number and records.nbytes == len(payload)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"batch": 2**63}, "batch"),
        ({"batch": -1}, "batch"),
        ({"batch": 1.5}, "batch"),
        ({"parts": [["trade", -1]]}, "parts[0][1]"),
        ({"source": "x" * 300}, "source"),
        ({"producer": "text"}, "producer"),
        ({"nope": 1}, "nope"),
        ({"v": 99}, "v"),
    ],
)
def test_the_error_names_the_field(fields: dict[str, Any], named: str) -> None:
    whole = {"type": "ingest", "id": 1, "instrument": "A.B", "producer": b"p" * 16, "batch": 1, "parts": []}
    with pytest.raises(ProtocolError) as caught:
        DECODERS[0].decode(packed({**whole, **fields}))
    assert caught.value.field == named


def test_a_message_of_too_many_frames_or_bytes_is_refused() -> None:
    for frames in ([], [b""] * (sockets.MAX_FRAMES + 1), [b"", bytes(protocol.MAX_PAYLOAD_BYTES + 1)]):
        with pytest.raises(ProtocolError):
            sockets.check_frames(frames)
    assert GIGABYTE > protocol.MAX_PAYLOAD_BYTES
