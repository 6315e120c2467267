"""What crosses a process border: shared-memory arena, journal, wire messages and sockets.

Imports `market` only. Knows nothing of PostgreSQL and nothing of who runs it.
"""
