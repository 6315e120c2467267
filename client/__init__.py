"""What users import: provider, producer, cache reader, frames, and adapters for existing code.

Imports `ipc` and `market`, never `daemon` or `sql`, so that a bare `pip install marketd` is enough for it.
"""
