"""An exchange on this machine: Binance from a capture or a synthetic market, other venues from a capture.

source       what a market is to the server: messages as time goes on, and answers about what has happened so far
capture      a recording as a source; `book` keeps its order books
synthetic    a seeded market as a source, deterministic at every moment of the past and the future; `synthetic_futures`
             has what contracts have beside it
rest         HTTP paths to answers
server       `Emulator`: Binance's subscriptions; `base` has what every exchange is on the network
playback     a recording of any other venue, frame by frame: `Playback`, served by `PlaybackEmulator`
"""

from marketd.daemon.feeds.emulator.capture import CaptureSource
from marketd.daemon.feeds.emulator.playback import Playback, PlaybackEmulator
from marketd.daemon.feeds.emulator.server import Emulator
from marketd.daemon.feeds.emulator.source import Progress, Source
from marketd.daemon.feeds.emulator.synthetic import SyntheticMarket
from marketd.daemon.feeds.emulator.synthetic_futures import SyntheticFutures

__all__ = [
    "CaptureSource",
    "Emulator",
    "Playback",
    "PlaybackEmulator",
    "Progress",
    "Source",
    "SyntheticFutures",
    "SyntheticMarket",
]
