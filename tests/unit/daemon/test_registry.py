"""The file of ids: one owner, ids that never mean two things, scales that are fixed for an id."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from lane import BTC
from marketd.daemon.registry import REGISTRY_NAME, Registry, RegistryBusy
from marketd.market.errors import ConfigError, InvalidArgument, MarketdError, UnknownInstrument
from marketd.market.instruments import GLOBAL_NAME, IDS_PER_DAEMON, Instrument
from marketd.market.records import InstrumentFlag

NO = 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / REGISTRY_NAME


def changed(instrument: Instrument, **fields: object) -> Instrument:
    return msgspec.structs.replace(instrument, **fields)


def declared(registry: Registry, instrument: Instrument) -> Instrument:
    return registry.declare(instrument)[0]


def test_a_new_daemon_has_the_instrument_of_global_streams_and_no_other(path: Path) -> None:
    registry = Registry(path, 7)
    (only,) = registry.instruments
    assert (only.name, only.id) == (GLOBAL_NAME, 7 * IDS_PER_DAEMON)
    registry.close()


def test_ids_are_counted_and_outlive_the_process(path: Path) -> None:
    registry = Registry(path, NO)
    first, new = registry.declare(changed(BTC, id=0))
    second, _ = registry.declare(changed(BTC, symbol="ETHUSDT", base="ETH"))
    assert new
    assert (first.id, second.id) == (NO * IDS_PER_DAEMON + 1, NO * IDS_PER_DAEMON + 2)
    registry.close()
    again = Registry(path, NO)
    assert again.by_name("BTCUSDT.BINANCE") == again.by_id(first.id) == first
    assert again.declare(changed(BTC, id=0)) == (first, False)
    assert declared(again, changed(BTC, symbol="SOLUSDT")).id == NO * IDS_PER_DAEMON + 3
    assert [i.id % IDS_PER_DAEMON for i in again.all_instruments] == [0, 1, 2, 3]
    again.close()


def test_a_second_owner_is_refused_until_the_first_lets_go(path: Path) -> None:
    registry = Registry(path, NO)
    with pytest.raises(RegistryBusy, match="running marketd"):
        Registry(path, NO)
    registry.close()
    registry.close()  # twice is once
    Registry(path, NO).close()


def test_a_reader_sees_what_the_owner_left_without_owning_it(path: Path) -> None:
    registry = Registry(path, NO)
    known = declared(registry, BTC)
    reader = Registry(path, NO, read_only=True)
    assert reader.by_name(known.name) == known
    registry.close()


def test_a_reader_of_a_file_that_is_not_there_makes_none(path: Path) -> None:
    reader = Registry(path, NO, read_only=True)
    assert [i.name for i in reader.instruments] == [GLOBAL_NAME]
    assert not path.parent.exists()


def test_a_finer_precision_gets_a_new_id_and_the_old_one_stays_known(path: Path) -> None:
    registry = Registry(path, NO)
    old = declared(registry, BTC)
    finer, new = registry.declare(changed(BTC, price_scale=BTC.price_scale + 1))
    assert new
    assert finer.id == old.id + 1
    assert registry.by_name(BTC.name) == finer
    assert registry.by_id(old.id) == changed(old, flags=int(InstrumentFlag.REMOVED))
    registry.close()
    again = Registry(path, NO)
    assert again.by_name(BTC.name) == finer
    assert again.by_id(old.id).removed
    assert [i for i in again.instruments if i.name == BTC.name] == [finer]
    again.close()


def test_a_coarser_precision_keeps_the_id_and_the_scales(path: Path) -> None:
    registry = Registry(path, NO)
    known = declared(registry, BTC)
    assert registry.declare(changed(BTC, price_scale=0, size_scale=1)) == (known, False)
    registry.close()


def test_two_senders_each_finer_in_one_scale_agree_on_a_third_id_and_take_no_turns(path: Path) -> None:
    registry = Registry(path, NO)
    fine_price = changed(BTC, price_scale=4, size_scale=2, tick_size=5, step_size=1)
    fine_size = changed(BTC, price_scale=2, size_scale=6, tick_size=1, step_size=7)
    declared(registry, fine_price)
    both = declared(registry, fine_size)
    assert (both.price_scale, both.size_scale, both.tick_size, both.step_size) == (4, 6, 100, 7)
    assert registry.declare(fine_price) == (both, False)
    assert registry.declare(fine_size) == (both, False)
    registry.close()


def test_a_sender_cannot_declare_an_instrument_away(path: Path) -> None:
    registry = Registry(path, NO)
    assert not declared(registry, changed(BTC, flags=int(InstrumentFlag.REMOVED))).removed
    registry.close()


def test_a_removed_instrument_that_is_declared_again_has_its_id_back_and_counts_as_new(path: Path) -> None:
    registry = Registry(path, NO)
    known = declared(registry, BTC)
    registry.close()
    file = msgspec.json.decode(path.read_bytes())
    for entry in file["instruments"]:
        if entry["id"] == known.id:
            entry["flags"] = 1
    path.write_bytes(msgspec.json.encode(file))
    again = Registry(path, NO)
    assert again.by_id(known.id).removed
    assert again.declare(BTC) == (known, True)
    again.close()


def test_when_an_instrument_was_first_live_is_noted_once_and_kept(path: Path) -> None:
    registry = Registry(path, NO)
    known = declared(registry, BTC)
    assert registry.live_since(known.id) == 0
    registry.mark_live(known.id, 1000)
    registry.mark_live(known.id, 2000)
    registry.close()
    again = Registry(path, NO)
    assert again.live_since(known.id) == 1000
    again.close()


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"daemon_no": "one", "instruments": []}'])
def test_a_damaged_file_is_told_in_words_and_not_owned(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(MarketdError, match="restore it from a backup"):
        Registry(path, NO)
    path.unlink()
    Registry(path, NO).close()


def test_data_of_another_daemon_number_is_refused_by_name(path: Path) -> None:
    Registry(path, NO).close()
    registry = Registry(path, 2)
    declared(registry, BTC)
    registry.close()
    with pytest.raises(ConfigError, match="set daemon_no = 2 or choose another state_dir") as raised:
        Registry(path, 3)
    assert raised.value.field == "daemon_no"
    Registry(path, 2).close()


def test_unknown_names_and_ids_are_named(path: Path) -> None:
    registry = Registry(path, NO)
    with pytest.raises(UnknownInstrument, match=r"'X\.Y' was not declared"):
        registry.by_name("X.Y")
    with pytest.raises(UnknownInstrument, match="no instrument has the id 9"):
        registry.by_id(9)
    registry.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price_scale", -1),
        ("size_scale", 19),
        ("quote_scale", 2**40),
        ("symbol", "B" * 33),
        ("symbol", ""),
        ("symbol", "B\x00"),
        ("venue", "BI.NANCE"),
        ("base", "é" * 9),
        ("market", "spot\n"),
        ("tick_size", 2**63),
        ("step_size", 0),
    ],
)
def test_what_no_record_could_hold_is_refused_before_any_id_is_given(path: Path, field: str, value: object) -> None:
    registry = Registry(path, NO)
    with pytest.raises(InvalidArgument, match=field):
        registry.check([BTC, changed(BTC, **{field: value})])
    assert len(registry) == 1
    registry.close()


def test_the_last_id_is_used_and_then_the_next_is_refused(path: Path) -> None:
    path.parent.mkdir()
    everyone = [changed(BTC, id=NO * IDS_PER_DAEMON + n, symbol=f"S{n}") for n in range(IDS_PER_DAEMON - 1)]
    path.write_bytes(msgspec.json.encode({"daemon_no": NO, "instruments": everyone}))
    registry = Registry(path, NO)
    assert declared(registry, BTC).id == NO * IDS_PER_DAEMON + IDS_PER_DAEMON - 1
    with pytest.raises(InvalidArgument, match="all its 65536 ids"):
        registry.declare(changed(BTC, symbol="ONEMORE"))
    registry.close()


def test_an_id_that_a_full_disk_cannot_keep_is_not_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(path, NO)
    kept = declared(registry, BTC)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(MarketdError, match="No space left"):
            registry.declare(changed(BTC, symbol="ETHUSDT"))
        with pytest.raises(MarketdError, match="No space left"):
            registry.mark_live(kept.id, 1)
    assert len(registry) == 2
    assert registry.live_since(kept.id) == 0
    other = declared(registry, changed(BTC, symbol="SOLUSDT"))
    registry.close()
    again = Registry(path, NO)
    assert again.by_name(other.name) == other
    with pytest.raises(UnknownInstrument):
        again.by_name("ETHUSDT.BINANCE")
    again.close()
