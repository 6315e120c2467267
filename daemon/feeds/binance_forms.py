"""Forms of Binance's messages, as they come on a connection of several streams; `forms` tells what they are for."""

from __future__ import annotations

from marketd.daemon.feeds import forms

DEPTH_SPEEDS = ("depth", *(f"depth@{speed}ms" for speed in (0, 100, 250, 500, 1000)))

_NAMED = forms.word(*(f'{speed}"' for speed in DEPTH_SPEEDS), behind="@")
read_changes = forms.message(
    {
        "stream": _NAMED,
        "data": {
            "s": forms.key(),
            "U": forms.count(),
            "u": forms.count(),
            "b": forms.bids(),
            "a": forms.asks(),
            "pu": forms.count(None),
            "E": forms.clock(0),
            "T": forms.clock(0),
        },
    }
)


def trades_of(name: str, flags: int) -> forms.ReadTrades | None:
    is_aggregate = name == "aggTrade"
    trade = {
        "s": forms.key(),
        "a" if is_aggregate else "t": forms.number(forms.count()),
        "p": forms.price(),
        "q": forms.size(),
        "T": forms.time(forms.clock()),
        "m": forms.side("false", "true"),  # is the buyer the maker
        "E": forms.seen(forms.clock(0)),
        "X": forms.market(forms.quoted("MARKET", fallback=0)),
    }
    of = {"f": forms.count(-1), "l": forms.count(-1)} if is_aggregate else {}
    return forms.trades({"stream": forms.word(f'{name}"', behind="@"), "data": trade | of}, flags)
