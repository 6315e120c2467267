"""Messages in frames: limits, routes, errors as values, topics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.ipc import protocol, sockets
from marketd.ipc.protocol import Decoder, Health, StreamHeader
from marketd.market.errors import ProtocolError

DECODER = Decoder(protocol.ToQuery)


def test_a_message_and_its_payloads_come_back() -> None:
    message, payloads = sockets.unpack(sockets.pack(Health(id=7), [b"ab", b""]), DECODER)
    assert message == Health(id=7) and payloads == [b"ab", b""]
    assert sockets.pack(Health(), route=b"peer")[0] == b"peer"


def test_a_peers_fault_comes_back_as_a_value_with_its_route_and_id() -> None:
    wrong = protocol.encode({"type": "health", "id": 9, "v": 99})
    received = sockets.read_routed([b"peer", wrong], DECODER)
    assert (received.route, received.id, received.message) == (b"peer", 9, None)
    assert isinstance(received.error, ProtocolError) and received.error.field == "v"


@pytest.mark.parametrize(
    "frames",
    [
        [b"peer"],
        [b"peer", b""],
        [b"peer", *[b"x"] * 66],
        [b"peer", b"\xc0" * (protocol.MAX_HEADER_BYTES + 1)],
        [b"peer", protocol.encode(Health()), bytes(protocol.MAX_PAYLOAD_BYTES + 1)],
    ],
)
def test_nothing_a_peer_sends_raises(frames: list[bytes]) -> None:
    assert isinstance(sockets.read_routed(frames, DECODER).error, ProtocolError)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_random_frames_are_errors_as_values(frames: list[bytes]) -> None:
    assert sockets.read_routed([b"peer", *frames], DECODER).error is not None


def test_a_stream_message_is_read_and_anything_else_refused() -> None:
    header = StreamHeader(3, "trade", 0, 1, 2, 3)
    topic = sockets.topic("candle", "BINANCE", "BTCUSDT", "1m")
    assert topic == b"candle.1m.BINANCE.BTCUSDT."
    assert sockets.read_stream([topic, protocol.encode(header), b""]) == (topic, header, b"")
    for frames in ([topic], [topic, b"\xc1", b""], [topic, protocol.encode([1]), b""]):
        with pytest.raises(ProtocolError):
            sockets.read_stream(frames)
