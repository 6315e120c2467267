"""A kernel as large as it gets, in a journal with the default settings: nothing fails, nothing is forgotten."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from lane import BTC, GRACE_NS, KINDS, MAX_SKEW_NS, SECOND, START
from marketd.daemon.kernel import TRADE_KIND, Kernel
from marketd.ipc.journal import Journal
from marketd.ipc.journal_settings import DEFAULT_FRONT_BYTES, DEFAULT_SEGMENT_BYTES
from marketd.market.instruments import Instrument
from marketd.market.records import TRADE, Records, TradeFlag
from marketd.market.trade_ids import MAX_HASHED

INSTRUMENTS, WITH_HASHES = 1_300, 24
SEVEN = (1, 60, 300, 900, 3_600, 14_400, 86_400)
FILLING = bytes(4 << 20)


def instrument(number: int) -> Instrument:
    found: Instrument = msgspec.structs.replace(BTC, id=BTC.id + number, symbol=f"S{number}USDT")
    return found


def some_trades(number: int) -> Records:
    """A minute of trades with counted ids, or as many with hashed ones as are remembered."""
    hashed = number < WITH_HASHES
    records = np.zeros(MAX_HASHED if hashed else 60, dtype=TRADE)
    steps = np.arange(len(records))
    records["ts_event"] = START + steps * 60 * SECOND // len(records)
    records["trade_id"] = (steps * 0x1E37_79B9_7F4A_7C15 + number) | 1 if hashed else steps
    records["flags"] = int(TradeFlag.HASHED_ID) if hashed else 0
    records["price"], records["size"], records["side"] = 100, 1, 1
    return records


def make_kernel() -> Kernel:
    return Kernel(KINDS, SEVEN, grace_ns=GRACE_NS, max_skew_ns=MAX_SKEW_NS)


def test_many_instruments_and_many_hashed_ids_are_no_matter_for_the_journal(tmp_path: Path) -> None:
    kernel = make_kernel()
    instruments = [instrument(number) for number in range(INSTRUMENTS)]
    for number, each in enumerate(instruments):
        lot = kernel.accept(each, [(TRADE_KIND, some_trades(number))], START + 61 * SECOND + number * 1000, source="x")
        assert not lot.refused
    state = kernel.checkpoint()
    assert len(state) > min(DEFAULT_SEGMENT_BYTES // 2, DEFAULT_FRONT_BYTES // 4), "this would fit into one frame"
    with Journal.open(tmp_path, checkpoint=kernel.checkpoint) as journal:
        # the state that `open` wrote is passed over for one that rolls bring about
        seq, before = 0, journal.statistics().checkpoints
        while journal.statistics().checkpoints == before:
            assert journal.wait_room(60)
            seq += 1
            journal.append(0, seq, seq, [(1, 1, len(FILLING), FILLING)])
            journal.release(journal.durable, 0)
    with Journal.open(tmp_path, checkpoint=make_kernel().checkpoint) as journal:
        restored = make_kernel()
        restored.restore(journal.checkpoint, instruments)
        assert 0 < sum(1 for _ in journal.replay()) < seq
    assert restored.checkpoint() == state
    again = kernel.accept(instruments[0], [(TRADE_KIND, some_trades(0)[:5])], START + 70 * SECOND, source="x")
    assert [refusal.rule for refusal in again.refused] == ["duplicate"] * 5
