"""What callers pass is checked before shared memory is looked at, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from marketd.client.provider import UnifiedDataProvider
from marketd.market.errors import InvalidArgument


@pytest.mark.parametrize("symbol", [None, "", 17])
def test_a_symbol_that_is_none_is_refused_by_every_way_of_asking(tmp_path: Path, symbol: Any) -> None:
    with UnifiedDataProvider(tmp_path, timeout=0.2) as md:
        for ask in (md.get_latest_ohlcv, md.query_ohlcv_data, md.get_latest_orderbook):
            with pytest.raises(InvalidArgument) as raised:
                ask(symbol)
            assert raised.value.field == "symbol"
