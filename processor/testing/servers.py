"""Real servers for tests: a broker that answers, databases that are made and dropped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import tenacity
from psycopg import errors, sql

from processor.dsn import place, psycopg_url
from processor.errors import ConfigurationError, Unreachable
from processor.operations import migrations
from processor.operations.broker import Broker
from processor.settings import Settings, load
from processor.testing.results import PipelineTestError

ANSWER_SECONDS = 5.0
CONNECT_SECONDS = 5
IN_USE_SECONDS = 10.0
"""How long a template may still be in use: by autovacuum, or by who has just left."""


def reached(bootstrap_servers: str) -> str:
    """The same, once a broker has answered there.

    :raises PipelineTestError: when none does.
    """
    broker = Broker(load(kafka={"bootstrap_servers": bootstrap_servers}))
    try:
        broker.wait(ANSWER_SECONDS)
    except Unreachable as error:
        raise PipelineTestError(
            f"{error}; start Kafka, with 'docker compose up -d kafka' for example"
        ) from None
    return bootstrap_servers


class Databases:
    """Makes databases on one server, each a copy of a template with the framework's tables.

    :param url: of any database there, by a user who may create others.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._template: str | None = None
        self._made: list[str] = []

    def create(self) -> str:
        """The URL of a new database, with the schema ``processor`` and no rows.

        :raises PipelineTestError: when the server is away, or does not let the user make one.
        """
        if self._template is None:
            template = self._name()
            self._make(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(template)), template)
            migrations.migrate(configured(url_of(self.url, template)))
            self._template = template
        name = self._name()
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._make(create.format(sql.Identifier(name), sql.Identifier(self._template)), name)
        return url_of(self.url, name)

    def drop(self, url: str) -> None:
        """End its sessions, and drop it."""
        name = urlsplit(url).path.removeprefix("/")
        with self._server() as connection:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))
        self._made.remove(name)

    def close(self) -> None:
        """Nothing of it is left on the server."""
        for name in list(self._made):
            self.drop(url_of(self.url, name))

    def _name(self) -> str:
        return f"processor_test_{os.getpid()}_{token_hex(4)}"

    def _make(self, statement: sql.Composed, name: str) -> None:
        with self._server() as connection:
            try:
                _patiently(connection.execute, statement)
            except errors.InsufficientPrivilege:
                raise PipelineTestError(
                    f"Postgres at {place(self.url)}: the user may not create databases, and each"
                    " test has its own: ALTER ROLE … CREATEDB"
                ) from None
        self._made.append(name)

    @contextmanager
    def _server(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            connection = psycopg.connect(
                psycopg_url(self.url), autocommit=True, connect_timeout=CONNECT_SECONDS
            )
        except (psycopg.OperationalError, ConfigurationError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise PipelineTestError(
                f"no Postgres answers ({reason}); start it, with 'docker compose up -d postgres'"
                " for example, or correct the URL"
            ) from None
        with connection:
            yield connection


def url_of(url: str, database: str) -> str:
    """The same server's URL of another database.

    >>> url_of("postgresql://me@db:5433/postgres?sslmode=disable", "a b")
    'postgresql://me@db:5433/a%20b?sslmode=disable'
    """
    return urlunsplit(urlsplit(url)._replace(path=f"/{quote(database, safe='')}"))


def configured(database_url: str, **settings: Any) -> Settings:
    """As the worker will read them: ``processor.toml`` and the environment, and what is said here.

    :raises ConfigurationError: naming what is wrong.
    """
    return load(database={"url": database_url}, **settings)


def _patiently(call: Any, statement: sql.Composed) -> None:
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors.ObjectInUse),
        wait=tenacity.wait_fixed(0.1),
        stop=tenacity.stop_after_delay(IN_USE_SECONDS),
        reraise=True,
    ):
        with attempt:
            call(statement)
