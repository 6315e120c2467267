"""Where everything stands in an arena file, and in which order it is stored: constants, told once.

All numbers are 8-byte little-endian words; a `word` is an index of such words, from the start of the file,
of a ring's live line, or of a descriptor. `docs/arena.md` says the same in bytes for readers in C.

Sync points. Each is one ordering of 8-byte stores (writer) and loads (reader) which x86-64 keeps by itself;
the names stand at the lines on both sides.

    A1 intent-before-slots     The writer stores how far it may write before it writes there. A reader loads
                               it after its copy: slots from further back may have been overwritten.
    A2 slots-before-publish    Slots and descriptor are written before the counter. A reader that has the
                               counter's value has all of them.
    A3 descriptor-reuse        Descriptor n is overwritten only after n + 7 was published. A reader loads the
                               counter again after its copy: moved by 7 or more, the copy may be torn.
    A4 begin-before-images     Before it touches before-images and their range for a publication, the writer
                               stores its number in BEGIN. A reader loads BEGIN after it copied them.
    A5 images-before-rewrite   Before a published slot changes, its before-image is in place, and the range
                               LOW to HIGH and READY say so. A reader loads READY after its copy of slots.

Nobody waits for anybody: a writer stopped or killed anywhere leaves its last publication readable, and the
next writer takes back what was not published.
"""

from __future__ import annotations

BYTES = 8

# The header's live words, from the start of the file. Words 0 to 2 never move in any version of the layout,
# so that a reader of any version learns what it has mapped, and that it was retired.
MAGIC = b"MARKETD\0"  # word 0
VERSION = 1
STATE = 2
PUBLISHED = 8  # a cache line of its own: the one word that every read begins and ends with
HEARTBEAT_MONO = 16
HEARTBEAT_WALL = 17
DURABLE = 18
COMMITTED = 19
WRITER_PID = 20
WRITER_START = 21
ATTACHED = 22
FILLING = 23  # 1: a ring may still lack what the database has, though others were published already

# What never changes in a file's life, in bytes.
STATIC_OFFSET = 256
RING_TABLE_OFFSET = 512
RING_ENTRY_BYTES = 128
NAME_BYTES = 48

# Of a ring's live line.
INTENT = 0
BEGIN = 1
READY = 2
LOW = 3
HIGH = 4
RING_LIVE_BYTES = 64

# Of a descriptor; then four words a ring; then the open bars.
NUMBER = 0
TS_KNOWN = 1
TS_EVENT = 2
SEQ = 3
JOURNAL_OFFSET = 4
DESCRIPTOR_FIXED_BYTES = 64
HEAD = 0
REVISION = 1
SINCE = 2
DESCRIPTOR_RING_BYTES = 32

DESCRIPTORS = 8  # a power of two: publication n is in descriptor n & 7
DESCRIPTOR_MASK = DESCRIPTORS - 1
SAFE_MOVES = DESCRIPTORS - 1  # this many publications later the descriptor may be in writing again

NEVER = 2**63 - 1  # SINCE of a ring of which nothing is known
