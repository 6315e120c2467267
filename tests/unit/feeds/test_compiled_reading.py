"""Levels read from the JSON by the compiled reader: what it takes, the ways of Python take, and as the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds import (
    bybit_messages,
    bybit_v2,
    coinbase,
    coinbase_exchange,
    coinbase_messages,
    kraken,
    kraken_v1,
    venue_records,
)
from marketd.daemon.feeds.bybit import BybitLinearAdapter
from marketd.daemon.feeds.levels import DIGITS, REALS, LevelReader
from marketd.market import compiled
from marketd.market.book import Levels
from marketd.market.errors import RuleViolation
from marketd.market.instruments import Instrument
from support import requires

pytestmark = requires("compiled")

digits = st.text("0123456789", max_size=20)
plain = st.tuples(st.integers(0, 10**9), st.integers(0, 99)).map(lambda n: f"{n[0]}.{n[1]:02d}")
odd = st.sampled_from(
    [
        *("0", "00", "007", "1.", ".5", ".", "", "-1", "+1", "1e3", "1E-1", " 1", "1 ", "1_0", "nan", "1.000", "1.001"),
        *("1" * 19, "9" * 18, "9223372036854775807", "92233720368547758.07", "92233720368547758.08", "1." + "0" * 600),
        *("\\u0031", '\\"', "é", "٣", "0x1", "Infinity", "null", "\ud800"),
    ]
)
decimal = plain | st.tuples(digits, digits).map(".".join) | odd
name = st.sampled_from(["1534614248.456738", "9223372036.000001", "1534614248.45", "0", "Buy", "sell", "é", "\\n"])


def quoted(text: str) -> str:
    return f'"{text}"'


number = decimal | decimal.map(quoted)
text = decimal.map(quoted) | st.sampled_from(["1.5", "null", "[]", "true"])
blank = st.sampled_from(["", "", "", " ", "\n", "\t "])


@st.composite
def arrays(draw: Any, cells: list[Any]) -> str:
    """An array of rows; some have a cell more, or less."""
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        row = [draw(cell) for cell in cells]
        change = draw(st.sampled_from(["", "", "", "more", "less"]))
        row = [*row, draw(text)] if change == "more" else row[:-1] if change == "less" else row
        gap = draw(blank)
        rows.append(f"[{gap}{','.join(row)}{gap}]")
    return draw(blank) + "[" + ",".join(rows) + "]" + draw(st.sampled_from(["", "", " ", ",", "]"]))


@st.composite
def objects(draw: Any, fields: dict[str, Any]) -> str:
    """An array of objects whose fields come in any order, twice, or not at all."""
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        names = draw(st.permutations(list(fields)))
        names = draw(st.sampled_from([names, names, names, names[:-1], [*names, names[0]]]))
        gap = draw(blank)
        rows.append("{" + ",".join(f'"{name}"{gap}:{gap}{draw(fields[name])}' for name in names) + "}")
    return "[" + ",".join(rows) + "]"


PLACES = [(2, 5), (0, 0), (8, 18), (18, 0), (19, 2)]


def reader_at(places: tuple[int, int]) -> LevelReader:
    price, size = places
    return LevelReader(Instrument(id=1, symbol="X", venue="Y", price_scale=price, size_scale=size, quote_scale=8))


def outcome(read: Callable[[], Any]) -> Any:
    """What was read, in lists, or how it was refused."""
    try:
        found = read()
    except (RuleViolation, msgspec.MsgspecError, UnicodeDecodeError, IndexError, ValueError) as error:
        return type(error), str(error)
    sides = (found,) if isinstance(found, Levels) else found
    return [(each.prices, each.sizes) if isinstance(each, Levels) else each for each in sides]


def written(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode("utf-8", "surrogatepass"))


def assert_same(places: tuple[int, int], read: Callable[[LevelReader], Any]) -> None:
    quick, slow = reader_at(places), reader_at(places)
    slow.quick = None
    assert outcome(lambda: read(quick)) == outcome(lambda: read(slow))


pairs = arrays([text, text])


@given(st.sampled_from(PLACES), pairs, pairs)
def test_pairs(places, bids, asks):
    assert_same(places, lambda reader: reader.pairs(written(bids), written(asks)))
    assert_same(places, lambda reader: reader.rows(written(bids), written(asks)))


@given(st.sampled_from(PLACES), arrays([text, text, text, text]), pairs)
def test_rows_of_four_texts(places, bids, asks):
    assert_same(places, lambda reader: reader.rows(written(bids), written(asks)))


dated = arrays([text, text, name.map(quoted)]) | arrays([text, text, name.map(quoted), st.just('"r"')])


@given(st.sampled_from(PLACES), dated, dated)
def test_kraken_s_rows_with_their_times(places, bids, asks):
    assert_same(places, lambda reader: kraken_v1._dated(reader, written(bids), written(asks), is_whole=True))


@given(st.sampled_from(PLACES), objects({"price": number, "qty": number}))
def test_kraken_s_objects(places, rows):
    assert_same(places, lambda reader: kraken._side(reader, written(rows)))


sides = st.sampled_from(["buy", "sell", "bid", "offer", "Buy", "Sell", "x"]).map(quoted)


@given(st.sampled_from(PLACES), arrays([sides, text, text]))
def test_coinbase_s_changes(places, rows):
    assert_same(places, lambda reader: coinbase_exchange._changes(reader, written(rows)))


@given(
    st.sampled_from(PLACES),
    objects({"side": sides, "event_time": name.map(quoted), "price_level": text, "new_quantity": text}),
)
def test_coinbase_s_objects(places, rows):
    event = coinbase_messages.BookEvent("update", "BTC-USD", written(rows))
    assert_same(places, lambda reader: coinbase._sides(reader, event))


old = objects({"price": number, "side": sides, "size": number | st.floats(0, 1e9).map(repr), "id": number})


@given(st.sampled_from(PLACES), old, objects({"price": number, "side": sides}), old)
def test_bybit_s_old_objects(places, update, delete, insert):
    body = f'{{"delete":{delete},"update":{update},"insert":{insert}}}'
    envelope = bybit_messages.Envelope(data=written(body))

    def read(reader: LevelReader) -> Any:
        adapter = BybitLinearAdapter(book=True)
        adapter._readers["X"] = reader
        return adapter._sides("X", envelope)

    assert_same(places, read)
    assert bybit_v2.REALS == 2


@pytest.mark.parametrize("places", PLACES)
def test_plain_levels_are_read_without_python(places: tuple[int, int]) -> None:
    """Else the comparisons above would compare nothing."""
    quick = reader_at(places).quick
    if places[0] > 18:
        assert quick is None
        return
    assert quick is not None
    rows = b'[["2","0"],["7","3"]]'
    assert outcome(lambda: quick.sides(rows, b"[]", False))[1] == ([], [])
    assert quick.sides(rows, rows, False) is not None
    assert quick.sides(b'[["2","0","x"]]', b"[]", False) is None
    assert quick.sides(b'[["2","0","x"]]', b"[]", True) is not None
    assert quick.dated(b'[["2","0","1534614248.456738","r"]]', b"[]")[2] == 1_534_614_248_456_738_000
    assert quick.sided(b'[["buy","2","0"],["sell","3","1"]]', b"buy", b"sell") is not None
    names = b"price", b"size", b"side", b"Buy", b"Sell"
    assert quick.objects((b'[{"side":"Buy","price":2,"id":5}]',), *names, 2, False) is not None
    assert quick.objects((b'[{"side":"Buy","price":2,"id":5}]',), *names, 2, True) is None
    assert quick.objects((b'[{"side":"Buy","price":1.000000000000001}]',), *names, 2, False) is None


@pytest.mark.parametrize(
    "written", ["007", "00", "1.", ".5", "-1", "+1", "1e3", "1.5e1", "0x1", "1 2", "NaN", "", "1.001"]
)
def test_what_is_no_number_of_json_or_of_the_scale_is_left_to_python(written: str) -> None:
    quick = reader_at((2, 5)).quick
    assert quick is not None
    for way in (DIGITS, REALS):
        row = f'[{{"price":{written},"qty":1}}]'.encode()
        assert quick.objects((row,), b"price", b"qty", b"", b"", b"", way, True) is None
    assert quick.objects((b'[{"price":1.5,"qty":1}]',), b"price", b"qty", b"", b"", b"", DIGITS, True) is not None


@pytest.mark.parametrize(
    "arguments", [(), (b"[]",), (b"[]", None, False), (b"[]", "[]", False), (7, b"[]", False), (b"[]", b"[]", False, 1)]
)
def test_arguments_of_other_types_are_refused(arguments: tuple[Any, ...]) -> None:
    quick = reader_at((2, 5)).quick
    assert quick is not None
    for method in (quick.sides, quick.sided, quick.objects):
        with pytest.raises(TypeError):
            method(*arguments)
    with pytest.raises(TypeError):
        quick.dated(*arguments[:1], None)
    with pytest.raises(ValueError, match="scales"):
        compiled.part.Reader(-1, 2)


@given(st.binary(max_size=60))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    quick = reader_at((2, 5)).quick
    assert quick is not None
    quick.sides(data, data, True)
    quick.dated(data, data)
    quick.sided(data, b"buy", b"sell")
    quick.objects((data, data), b"p", b"s", b"", b"", b"", 2, False)


fields = st.integers(1960, 2270), st.integers(0, 13), st.integers(0, 32), *[st.integers(0, 61)] * 3
moments = st.tuples(
    *fields, st.text("0123456789", max_size=11), st.sampled_from(["Z", "Z", "Z", "z", "+00:00", ""])
).map(lambda n: f"{n[0]:04d}-{n[1]:02d}-{n[2]:02d}T{n[3]:02d}:{n[4]:02d}:{n[5]:02d}.{n[6]}{n[7]}")


@given(moments | st.datetimes().map(lambda moment: moment.isoformat() + "Z") | st.text(max_size=32))
def test_a_time_in_words_is_the_same(text: str) -> None:
    assert compiled.part is not None
    found = compiled.part.moment_ns(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(venue_records, "_moment_ns", None)
        if found is not None:
            assert venue_records.rfc3339_ns(text) == found
    assert compiled.part.moment_ns("2021-04-17T16:43:37.093357Z") == 1618677817_093357000
    assert compiled.part.moment_ns(b"2021-04-17T16:43:37.093357Z") is None
