"""A commit that was not waited for is never taken for durable, whatever a handler has set."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from devstack import Postgres
from devstack.waiting import wait_until
from processor.engine.database import Database
from processor.engine.failures import DatabaseDoubt
from processor.settings import Database as DatabaseSettings
from tests.support.engine import free_steps

CANCEL_WAITING = (
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
)


@pytest.fixture(scope="module")
def without_standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Every commit waits for a standby that is not there."""
    folder: Path = tmp_path_factory.mktemp("postgres")
    with Postgres(folder, {"synchronous_standby_names": "nobody"}) as postgres:
        yield postgres


@pytest.fixture
def database(without_standby: Postgres) -> Iterator[Database]:
    settings = DatabaseSettings(url=SecretStr(without_standby.url))
    database = Database(settings, "durable", "READ COMMITTED", free_steps())
    yield database
    database.close()


@pytest.mark.parametrize(
    "set_by_a_handler",
    [
        "SELECT",
        "SET LOCAL synchronous_commit = off",
        "SET LOCAL client_min_messages = error",
        "SET LOCAL synchronous_commit = local; SET LOCAL client_min_messages = error",
        "SET SESSION synchronous_commit = off; SET SESSION client_min_messages = error",
    ],
)
def test_a_commit_that_its_standby_has_not_seen_is_a_doubt(
    without_standby: Postgres, database: Database, set_by_a_handler: str
) -> None:
    connection = database.begin()
    connection.execute(set_by_a_handler.encode(), prepare=False)
    me = connection.info.backend_pid
    connection.execute(f"CREATE TABLE written_{me} ()".encode())
    with (
        psycopg.connect(without_standby.url, autocommit=True) as operator,
        ThreadPoolExecutor(1) as pool,
    ):
        committing = pool.submit(database.commit)
        wait_until(
            lambda: bool(operator.execute(CANCEL_WAITING, (me,)).fetchall()), 20, "the commit waits"
        )
        with pytest.raises(DatabaseDoubt, match="synchronous replication"):
            committing.result(20)
