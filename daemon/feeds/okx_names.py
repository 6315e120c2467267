"""Names of OKX's instruments: ccxt's, marketd's, and the venue's own.

    spot      BTC/USDT               BTCUSDT          BTC-USDT
    swap      BTC/USDT:USDT          BTCUSDTSWAP      BTC-USDT-SWAP      linear: settles in the quote currency
              BTC/USD:BTC            BTCUSDSWAP       BTC-USD-SWAP       inverse: settles in the base currency
    future    BTC/USD:BTC-250328     BTCUSD250328     BTC-USD-250328     by the day on which it ends
    option    BTC/USD:BTC-250328-60000-C                BTC-USD-250328-60000-C     and its strike; call or put
                                     BTCUSD25032860000C

A name without separators is taken apart by the quote currencies that marketd knows (`precision.split_pair`); whoever
trades another pair writes it with "/" or "-".
"""

from __future__ import annotations

import re

from marketd.daemon.feeds.adapter_base import pair_of
from marketd.daemon.feeds.precision import split_pair
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument

VENUE = "OKX"
_OWN = re.compile(r"([A-Z0-9]{1,16})-([A-Z0-9_]{2,12})(?:-(SWAP|[0-9]{6}(?:-[0-9.]+-[CP])?))?")
_ENDING = r"(SWAP|[0-9]{6})(?:([0-9.]+)([CP]))?"
_JOINED = re.compile(rf"([A-Z0-9_]{{4,30}}?)(?:{_ENDING})?")


def inst_id_of(symbol: str) -> str:
    """The venue's own name of whatever a caller writes; InvalidArgument when it names nothing of OKX."""
    base, quote, settle, end = pair_of(symbol, VENUE, "BTC/USDT")
    name = "-".join(part for part in (base, quote, end or ("SWAP" if settle else "")) if part)
    if not quote and "-" not in name:
        name = _taken_apart(name)
    if _OWN.fullmatch(name) is None or (settle and settle not in (base, quote)):
        raise InvalidArgument(
            f"symbols: {symbol!r} is no symbol of {VENUE}; write one such as 'BTC/USDT', 'BTC/USDT:USDT' or "
            "'BTC-USD-250328'",
            field="symbols",
        )
    return name


def _taken_apart(name: str) -> str:
    match = _JOINED.fullmatch(name)
    base, quote = split_pair(match[1], VENUE) if match else ("", "")
    return "-".join((base, quote, *_parts(match)[1:]))


def _parts(match: re.Match[str] | None) -> list[str]:
    return [part for part in match.groups() if part] if match else []


def symbol_of(inst_id: str) -> str:
    """marketd's symbol."""
    return inst_id.replace("-", "")


def inst_id_of_instrument(instrument: Instrument) -> str:
    """The venue's own name of an instrument that was declared before, by an earlier run perhaps."""
    pair = instrument.base + instrument.quote
    if instrument.base and instrument.quote and instrument.symbol.startswith(pair):
        end = re.fullmatch(_ENDING, instrument.symbol[len(pair) :])
        name = "-".join((instrument.base, instrument.quote, *_parts(end)))
        if _OWN.fullmatch(name):
            return name
    try:
        return inst_id_of(instrument.symbol)
    except InvalidArgument:
        return instrument.symbol


def kind_of(inst_id: str) -> str:
    """The venue's `instType`."""
    last = _OWN.fullmatch(inst_id)
    end = (last[3] if last else None) or ""
    if "-" in end:
        return "OPTION"
    return "SWAP" if end == "SWAP" else "FUTURES" if end else "SPOT"


def family_of(inst_id: str) -> str:
    """The venue's `instFamily`, of what is traded on a pair: BTC-USD."""
    return "-".join(inst_id.split("-")[:2])
