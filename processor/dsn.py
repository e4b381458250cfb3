"""The database URL, and what a failed connection means.

>>> psycopg_url("postgresql+psycopg://me@db/orders")
'postgresql://me@db/orders'
>>> place("postgresql://me:secret@db:5433/orders")
'db:5433/orders'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from processor.errors import ConfigurationError, ProcessorError, Unreachable

if TYPE_CHECKING:
    import psycopg

_FORMS = ("postgresql://", "postgres://", "postgresql+psycopg://")

_PASSING = (
    "starting up",
    "shutting down",
    "not yet accepting connections",
    "recovery mode",
    "too many",
    "remaining connection slots",
    "terminating connection",
)
"""Fragments of the server's refusals that end by themselves.

libpq gives no SQLSTATE for a connection that never was; the text is all there is.
"""


def psycopg_url(url: str) -> str:
    """The URL as libpq takes it; SQLAlchemy's ``postgresql+psycopg://`` is accepted too.

    :raises ConfigurationError: when it is neither, or a part of the password would be taken for
        the host; the text does not show the URL.
    """
    if not url.startswith(_FORMS):
        scheme = url.split("://")[0] if "://" in url else "no scheme"
        raise ConfigurationError(
            f"database.url has {scheme!r}; it must be postgresql://user@host:port/database"
        )
    rest = url.split("://", 1)[1]
    authority, _, path = rest.split("?")[0].partition("/")
    if authority.count("@") > 1 or "@" in path:
        raise ConfigurationError(
            "database.url: in user or password '@' is written %40, and '/' %2F"
        )
    return "postgresql://" + rest


def place(url: str) -> str:
    """Where a URL leads, without user and password: ``host:port/database``."""
    parts = _parts(url)
    hosts = (parts.get("host") or parts.get("hostaddr") or "localhost").split(",")
    ports = (parts.get("port") or "5432").split(",")
    servers = [f"{host}:{ports[min(i, len(ports) - 1)]}" for i, host in enumerate(hosts)]
    return f"{','.join(servers)}/{_database(parts)}"


def connection_error(error: psycopg.OperationalError, url: str) -> ProcessorError:
    """What a failed attempt to connect means.

    :class:`Unreachable` may pass by itself, :class:`ConfigurationError` will not.
    """
    text = _one_line(str(error))
    where = place(url)
    user = _parts(url).get("user") or "the current system user"
    if "password" in text:
        return ConfigurationError(
            f"Postgres at {where} refuses user {user!r}: wrong or missing password;"
            " set PROCESSOR_DATABASE__URL"
        )
    if "FATAL" not in text or any(fragment in text for fragment in _PASSING):
        return Unreachable(f"Postgres at {where} does not answer: {text}")
    if "database" in text and "does not exist" in text:
        return ConfigurationError(
            f"Postgres at {where}: there is no such database; create it or correct database.url"
        )
    return ConfigurationError(f"Postgres at {where} refuses user {user!r}: {text}")


def _parts(url: str) -> dict[str, str]:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(psycopg_url(url))
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            "database.url cannot be parsed; percent-encode special characters in the password"
        ) from None
    return {name: str(value) for name, value in parts.items() if value}


def _database(parts: dict[str, str]) -> str:
    return parts.get("dbname") or parts.get("user") or "(default)"


def _one_line(text: str) -> str:
    """The server's or libpq's reason, without the address that it repeats."""
    reason = text.strip().splitlines()[0] if text.strip() else "no reason given"
    return reason.rsplit("failed: ", 1)[-1].strip()
