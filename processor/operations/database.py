"""Connections to Postgres for everything that is not the engine's hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import tenacity

from processor.dsn import connection_error, place, psycopg_url
from processor.errors import ConfigurationError, ProcessorError, SchemaMismatch, Unreachable
from processor.settings import Settings

Connection = psycopg.Connection[tuple[Any, ...]]
Notify = Callable[[str], None]
"""Takes one line about what is being waited for."""

PATIENCE_SECONDS = 5.0
"""How long a command that only looks waits for a server that is away."""


def silent(line: str) -> None:
    """Tell nobody."""


def url_of(settings: Settings) -> str:
    """The database URL in the form that libpq takes."""
    return psycopg_url(settings.database.url.get_secret_value())


def connect(
    settings: Settings, *, patience: float = PATIENCE_SECONDS, notify: Notify = silent
) -> Connection:
    """Connect, and try again with back-off while the server is away.

    :param patience: seconds after which to give up.
    :raises Unreachable: when they have passed.
    :raises ConfigurationError: at once for what does not pass by itself, as a wrong password.
    """
    for attempt in patiently(patience, notify):
        with attempt:
            return _connect_once(settings)
    raise AssertionError("unreachable: the last attempt raises")


def patiently(patience: float, notify: Notify = silent) -> tenacity.Retrying:
    """Attempts with back-off for as long as they end in :class:`Unreachable`."""

    def tell(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            notify(f"waiting up to {patience:g} s: {state.outcome.exception()}")

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unreachable),
        wait=tenacity.wait_exponential(multiplier=0.2, max=3.0) + tenacity.wait_random(0, 0.2),
        stop=tenacity.stop_before_delay(patience),
        before_sleep=tell,
        reraise=True,
    )


@contextmanager
def session(
    settings: Settings, *, patience: float = PATIENCE_SECONDS, notify: Notify = silent
) -> Iterator[Connection]:
    """A connection in autocommit whose errors come out as this package's."""
    with connect(settings, patience=patience, notify=notify) as connection:
        connection.autocommit = True
        with translated(settings):
            yield connection


@contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Turn psycopg's errors into one line that a user can act on."""
    try:
        yield
    except psycopg.Error as error:
        told = statement_error(error, url_of(settings))
        if told is None:
            raise
        raise told from error


def statement_error(error: psycopg.Error, url: str) -> ProcessorError | None:
    """What a failed statement of ours means to a user; None for what can only be a bug."""
    where = f"Postgres at {place(url)}"
    text = (error.diag.message_primary or str(error)).strip().splitlines()[0]
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return ConfigurationError(f"{where}: {text}; grant it to the configured user")
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return SchemaMismatch(f"{where}: {text}; run: processor migrate")
    if isinstance(error, psycopg.OperationalError):
        return Unreachable(f"{where}: {text}")
    return None


def _connect_once(settings: Settings) -> Connection:
    url = url_of(settings)
    try:
        return psycopg.connect(
            url,
            connect_timeout=round(settings.database.connect_timeout_seconds),
            fallback_application_name="processor",
        )
    except psycopg.OperationalError as error:
        raise connection_error(error, url) from error
