"""The arena's header: what it tells comes back, and what cannot be true is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.ipc import arena_words as word
from marketd.ipc.arena import ArenaUnreadable, ArenaUnsupported, Identity, Layout, RingSpec, plan, require_x86_64
from marketd.ipc.arena_header import decode, encode_static, first_bytes
from marketd.market.errors import InvalidArgument
from marketd.market.records import CANDLE, COVERAGE, KINDS, TRADE, series_kind
from support import REPOSITORY

IDENTITY = Identity("default", bytes(range(16)), 65_537, "BTCUSDT.BINANCE", 2, 5, 7)
SPECS = (
    RingSpec("trade", 1, TRADE, 1000),
    RingSpec("candle.1m.own", 2, CANDLE, 300),
    RingSpec("coverage", 8, COVERAGE, 9),
)
LAYOUT = plan(SPECS, 14)
HEADER = first_bytes(LAYOUT, IDENTITY)

names = st.text("abcdefghij_.é", min_size=1, max_size=20)
STAMP = [("ts_event", "<i8"), ("ts_known", "<i8"), ("seq", "<i8")]
kinds = st.sampled_from(
    [kind for kind in KINDS if kind.ring] + [series_kind(64, "funding", {"rate": "f8", "mark": "price"})]
)
specs = st.builds(
    lambda name, kind, capacity: RingSpec(name, kind.id, kind.dtype, capacity), names, kinds, st.integers(1, 5000)
)


@given(st.lists(specs, max_size=20, unique_by=lambda spec: spec.name), st.integers(0, 40))
def test_what_a_header_tells_is_what_was_planned(rings: list[RingSpec], open_slots: int) -> None:
    layout = plan(rings, open_slots)
    assert decode(first_bytes(layout, IDENTITY), layout.file_bytes) == (layout, IDENTITY)
    assert_nothing_overlaps(layout)


def assert_nothing_overlaps(layout: Layout) -> None:
    static_end = word.STATIC_OFFSET + len(encode_static(layout, IDENTITY))
    areas = [(0, static_end), (layout.descriptors, word.DESCRIPTORS * layout.stride)]
    for ring in layout.rings:
        areas.append((ring.live * word.BYTES, word.RING_LIVE_BYTES))
        areas += [(at, ring.slots * ring.itemsize) for at in (ring.offset, ring.images_offset) if at]
    areas.sort()
    ends = [start + size for start, size in areas]
    assert all(end <= start for end, (start, _) in zip(ends, areas[1:], strict=False))
    assert ends[-1] <= layout.file_bytes
    assert all(start % 64 == 0 for start, _ in areas)


@given(st.integers(0, len(HEADER) - 9), st.binary(min_size=1, max_size=8))
def test_a_damaged_header_is_refused_or_stays_inside_the_file(at: int, damage: bytes) -> None:
    data = bytearray(HEADER)
    data[at : at + len(damage)] = damage
    try:
        layout, _ = decode(bytes(data), LAYOUT.file_bytes)
    except ArenaUnreadable:
        return
    assert layout.descriptors + word.DESCRIPTORS * layout.stride <= LAYOUT.file_bytes
    for ring in layout.rings:
        assert 0 < ring.offset <= LAYOUT.file_bytes - ring.slots * ring.itemsize
        assert not ring.dtype.hasobject


@pytest.mark.parametrize("size", [0, 7, 16, 255, 300, 511, 600, 900])
def test_a_truncated_header_is_refused(size: int) -> None:
    with pytest.raises(ArenaUnreadable):
        decode(HEADER[:size], LAYOUT.file_bytes)


def test_another_version_is_refused_by_its_number() -> None:
    data = bytearray(HEADER)
    data[8] = 2
    with pytest.raises(ArenaUnreadable, match="layout version 2"):
        decode(bytes(data), LAYOUT.file_bytes)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (RingSpec("", 1, TRADE, 10), "name"),
        (RingSpec("n" * 49, 1, TRADE, 10), "name"),
        (RingSpec("trade", 1, TRADE, 0), "capacity"),
        (RingSpec("raw", 17, np.dtype("u1"), 10), "begins with its time"),
        (RingSpec("odd", 64, np.dtype([*STAMP, ("x", "<i4")]), 10), "multiple of 8"),
    ],
)
def test_a_ring_that_cannot_be_is_refused_in_words(spec: RingSpec, match: str) -> None:
    with pytest.raises(InvalidArgument, match=match):
        plan([spec], 0)


def test_two_rings_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="same name"):
        plan([SPECS[0], SPECS[0]], 0)


def test_another_machine_is_refused_in_plain_words() -> None:
    require_x86_64("AMD64")
    with pytest.raises(ArenaUnsupported, match="needs an x86-64 machine and this is aarch64"):
        require_x86_64("aarch64")


def test_every_sync_point_is_named_on_both_sides_and_in_the_manual() -> None:
    sides = {
        "writer": ("ipc/arena_ring.py", "ipc/arena_writer.py"),
        "reader": ("ipc/arena_reader.py", "ipc/arena_cut.py"),
        "C": ("ipc/marketd.h",),
        "manual": ("docs/arena.md",),
    }
    texts = {side: "".join((REPOSITORY / f).read_text() for f in files) for side, files in sides.items()}
    points = dict(re.findall(r"^    (A\d) ([a-z-]+)", (REPOSITORY / "ipc/arena_words.py").read_text(), re.M))
    assert len(points) == 5
    missing = [(side, point) for side, text in texts.items() for point in points.items() if " ".join(point) not in text]
    assert missing == []


def test_the_reader_in_c_is_short() -> None:
    assert len((REPOSITORY / "ipc/marketd.h").read_text().splitlines()) < 200
