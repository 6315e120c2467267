"""An exchange on this machine: Binance's WebSocket and REST over loopback, from a capture or a synthetic market.

source       what a market is to the server: messages as time goes on, and answers about what has happened so far
capture      a recording as a source; `book` keeps its order books
synthetic    a seeded market as a source, deterministic at every moment of the past and the future
rest         HTTP paths to answers
server       `Emulator`: sockets, subscriptions, queues
"""

from marketd.daemon.feeds.emulator.capture import CaptureSource
from marketd.daemon.feeds.emulator.server import Emulator
from marketd.daemon.feeds.emulator.source import Progress, Source
from marketd.daemon.feeds.emulator.synthetic import SyntheticMarket

__all__ = ["CaptureSource", "Emulator", "Progress", "Source", "SyntheticMarket"]
