"""The processes: the supervisor and its actors (feed, ingest, writer, query).

Imports `sql`, `ipc` and `market`. Each actor is an ordinary program; restart is its ordinary start.
"""
