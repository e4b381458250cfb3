"""Each contract runs over every implementation that its factory names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devstack import Postgres, Proxy
from tests.support.databases import PostgresWorld, ProxiedWorld, create_migrated, emptied
from tests.support.simulated_database import SimulatedWorld


@pytest.fixture(scope="session")
def contract_database(postgres: Postgres) -> str:
    """A migrated database that each test finds empty."""
    return create_migrated(postgres)


@pytest.fixture(params=["postgres", "simulated"])
def world(request: pytest.FixtureRequest, group: str) -> Iterator[PostgresWorld]:
    """Stores and ledgers over an empty database, real or simulated."""
    is_real = request.param == "postgres"
    world = _real(request, group) if is_real else SimulatedWorld(group)
    yield world
    world.close()


@pytest.fixture
def real_world(request: pytest.FixtureRequest, group: str) -> Iterator[PostgresWorld]:
    """The same, for what is Postgres' own: types, settings, its programs."""
    world = _real(request, group)
    yield world
    world.close()


def _real(request: pytest.FixtureRequest, group: str) -> PostgresWorld:
    url = request.getfixturevalue("contract_database")
    emptied(url)
    return PostgresWorld(url, group)


@pytest.fixture(params=["postgres", "simulated"])
def lossy_world(
    request: pytest.FixtureRequest, group: str
) -> Iterator[ProxiedWorld | SimulatedWorld]:
    """One whose network can lose a COMMIT or its answer."""
    if request.param == "simulated":
        simulated = SimulatedWorld(group)
        yield simulated
        simulated.close()
        return
    postgres, url = (request.getfixturevalue(name) for name in ("postgres", "contract_database"))
    emptied(url)
    proxy = Proxy("127.0.0.1", postgres.port)
    proxied = ProxiedWorld(url, group, proxy, postgres.port)
    yield proxied
    proxied.close()
    proxy.close()
