"""A fake of Postgres: a server with transactions and locks, and connections as psycopg's.

It reads the part of SQL that the engine speaks, so that what stands in a statement counts, and
what is taken out of one does not. A statement beyond that raises ``UnknownStatement``.
"""

from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.server import Server, State

__all__ = ["Server", "State", "UnknownStatement"]
