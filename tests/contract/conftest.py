"""Each contract runs over every implementation that its factory names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devstack import Postgres, Proxy
from tests.support.databases import PostgresWorld, create_migrated, emptied


@pytest.fixture(scope="session")
def contract_database(postgres: Postgres) -> str:
    """A migrated database that each test finds empty."""
    return create_migrated(postgres)


@pytest.fixture(params=["postgres"])
def world(
    request: pytest.FixtureRequest, contract_database: str, group: str
) -> Iterator[PostgresWorld]:
    """Stores and ledgers over an empty database."""
    assert request.param == "postgres"
    emptied(contract_database)
    world = PostgresWorld(contract_database, group)
    yield world
    world.close()


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    """Between the engine's connection and Postgres."""
    proxy = Proxy("127.0.0.1", postgres.port)
    yield proxy
    proxy.close()


@pytest.fixture
def proxied_world(
    postgres: Postgres, proxy: Proxy, contract_database: str, group: str
) -> Iterator[PostgresWorld]:
    emptied(contract_database)
    proxied_url = contract_database.replace(f":{postgres.port}/", f":{proxy.port}/")
    world = PostgresWorld(contract_database, group, proxied_url)
    yield world
    world.close()
