"""The daemon's own file of ids: which number every instrument has.

`<state>/registry.json`, replaced atomically and flushed before an id is used, so that an id never means two things.
One process owns it (ingest, or an import while no daemon runs); a second one is refused.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from marketd.market.errors import ConfigError, InvalidArgument, MarketdError, UnknownInstrument
from marketd.market.fixed import MAX_FIXED
from marketd.market.instruments import IDS_PER_DAEMON, MAX_SCALE, Instrument, global_instrument
from marketd.market.records import InstrumentFlag

REGISTRY_NAME = "registry.json"  # in the state directory


class RegistryBusy(MarketdError):
    """Another process owns the registry of instruments."""


class _File(msgspec.Struct):
    daemon_no: int
    instruments: list[Instrument] = []
    live_since: dict[int, int] = {}  # id -> ts_known of the first declaration to the live lane


class RegistryBehind(MarketdError):
    """The file of ids is older than the journal."""


def has_ids(path: Path) -> bool:
    """Whether this file gave an id to anything but the daemon itself. MarketdError when it cannot be read."""
    if not path.exists():
        return False
    return len(_read(path).instruments) > 1


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except msgspec.MsgspecError as error:
        raise MarketdError(f"{path} cannot be read ({error}); restore it from a backup") from None


class Registry:
    """Ids of instruments, by canonical name. `read_only`: as the owner left the file, without owning it."""

    def __init__(self, path: Path, daemon_no: int, *, read_only: bool = False) -> None:
        self._path = path
        self._lock = -1
        if not read_only:
            self._take_lock()
        try:
            self._file = self._load(daemon_no)
        except MarketdError:
            self.close()
            raise
        self._by_id = {i.id: i for i in self._file.instruments}
        # a name may have had other ids before (a finer precision makes a new one): the newest counts
        self._by_name = {i.name: i for i in self._file.instruments}

    def _take_lock(self) -> None:
        path = self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise RegistryBusy(
                f"{path} belongs to a running marketd; stop it first, or let it do the work (marketd status)"
            ) from None

    def _load(self, daemon_no: int) -> _File:
        if not self._path.exists():
            return _File(daemon_no=daemon_no, instruments=[global_instrument(daemon_no)])
        file = _read(self._path)
        if file.daemon_no != daemon_no:
            raise ConfigError(
                f"daemon_no: the config says {daemon_no}, but the data in {self._path.parent} was made with "
                f"{file.daemon_no}; set daemon_no = {file.daemon_no} or choose another state_dir",
                field="daemon_no",
            )
        return file

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def path(self) -> Path:
        return self._path

    def __contains__(self, instrument_id: int) -> bool:
        return instrument_id in self._by_id

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def instruments(self) -> list[Instrument]:
        return list(self._by_name.values())

    @property
    def all_instruments(self) -> list[Instrument]:
        """Those too whose id a finer precision replaced."""
        return list(self._by_id.values())

    def by_id(self, instrument_id: int) -> Instrument:
        try:
            return self._by_id[instrument_id]
        except KeyError:
            raise UnknownInstrument(
                f"instrument: no instrument has the id {instrument_id}", field="instrument"
            ) from None

    def by_name(self, name: str) -> Instrument:
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownInstrument(
                f"instrument: {name!r} was not declared; declare it with its scales first", field="instrument"
            ) from None

    def check(self, wanted: Sequence[Instrument]) -> None:
        """Whether these could be declared. Raises InvalidArgument naming the field."""
        for instrument in wanted:
            _check(instrument)

    def declare(self, wanted: Instrument) -> tuple[Instrument, bool]:
        """The instrument of that name with its id, and whether the id is new.

        A finer precision than the known one gets a new id, since scales are fixed for an id; a coarser one
        keeps the old. Call `check` first. Raises InvalidArgument when the ids are used up.
        """
        wanted = msgspec.structs.replace(wanted, flags=0)  # they are ours to set
        known = self._by_name.get(wanted.name)
        if known is not None and known.price_scale >= wanted.price_scale and known.size_scale >= wanted.size_scale:
            if known.removed:
                return self._store(msgspec.structs.replace(known, flags=known.flags & ~InstrumentFlag.REMOVED)), True
            return known, False
        number = sum(1 for i in self._by_id.values())
        if number >= IDS_PER_DAEMON:
            raise InvalidArgument(f"instrument: this daemon has used all its {IDS_PER_DAEMON} ids", field="instrument")
        if known is not None:
            wanted = _as_fine_as(known, wanted)
            self._store(msgspec.structs.replace(known, flags=known.flags | InstrumentFlag.REMOVED))
        return self._store(msgspec.structs.replace(wanted, id=self._file.daemon_no * IDS_PER_DAEMON + number)), True

    def live_since(self, instrument_id: int) -> int:
        """When the live lane first heard of the instrument (ns); 0: never."""
        return self._file.live_since.get(instrument_id, 0)

    def mark_live(self, instrument_id: int, ts_known: int) -> None:
        """From now on the instrument's past belongs to the live lane."""
        if instrument_id not in self._file.live_since:
            self._save(live_since=self._file.live_since | {instrument_id: ts_known})

    def _store(self, instrument: Instrument) -> Instrument:
        by_id = self._by_id | {instrument.id: instrument}
        self._save(instruments=sorted(by_id.values(), key=lambda i: i.id))
        self._by_id[instrument.id] = self._by_name[instrument.name] = instrument
        return instrument

    def _save(self, **changes: Any) -> None:
        """On disk first: an id that is not there may be given again. Raises MarketdError, and nothing has changed."""
        file = msgspec.structs.replace(self._file, **changes)
        try:
            self._write(file)
        except OSError as error:
            raise MarketdError(f"{self._path} could not be written ({error.strerror}); see to the disk") from error
        self._file = file

    def _write(self, file: _File) -> None:
        temporary = self._path.with_suffix(".new")
        with open(temporary, "wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(file)))
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _as_fine_as(known: Instrument, wanted: Instrument) -> Instrument:
    """`wanted`, no scale coarser than `known`'s: two senders, each finer in one, agree on a third and take no turns."""
    price = max(known.price_scale, wanted.price_scale)
    size = max(known.size_scale, wanted.size_scale)
    return msgspec.structs.replace(
        wanted,
        price_scale=price,
        size_scale=size,
        quote_scale=max(known.quote_scale, wanted.quote_scale),
        tick_size=min(wanted.tick_size * 10 ** (price - wanted.price_scale), MAX_FIXED),
        step_size=min(wanted.step_size * 10 ** (size - wanted.size_scale), MAX_FIXED),
    )


def _check(wanted: Instrument) -> None:
    for field in ("price_scale", "size_scale", "quote_scale"):
        if not 0 <= getattr(wanted, field) <= MAX_SCALE:
            raise InvalidArgument(f"{field}: {getattr(wanted, field)} is not within 0 to {MAX_SCALE}", field=field)
    for field in ("tick_size", "step_size"):
        if not 1 <= getattr(wanted, field) <= MAX_FIXED:
            raise InvalidArgument(f"{field}: {getattr(wanted, field)} is not within 1 to {MAX_FIXED}", field=field)
    for field, limit in (("symbol", 32), ("venue", 24), ("base", 16), ("quote", 16), ("market", 8)):
        text = getattr(wanted, field)
        if len(text.encode()) > limit or not text.isprintable() or "\x00" in text:
            raise InvalidArgument(f"{field}: {text!r} is longer than {limit} bytes or not printable", field=field)
    if not wanted.symbol or not wanted.venue or "." in wanted.venue:
        raise InvalidArgument("symbol, venue: an instrument needs both; a venue has no dot", field="symbol")
