"""All that knows PostgreSQL: schema, named queries, COPY, connections and the embedded server.

Imports `market` only. Clients never import it: they ask the daemon.
"""
