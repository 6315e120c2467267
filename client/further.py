"""What shared memory cannot answer, and the query actor may."""

from __future__ import annotations

from marketd.ipc.arena import ArenaContended, ArenaUnsupported
from marketd.market.errors import BeyondCache, UnknownInstrument, UnknownStream, Warming

ASK_FURTHER = (BeyondCache, Warming, UnknownInstrument, UnknownStream, ArenaContended, ArenaUnsupported)
