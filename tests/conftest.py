"""One real Kafka and one real Postgres for the whole test run, started when first asked for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from devstack import Kafka, Postgres, Stack

TopicFactory = Callable[..., str]
LONGEST_FIRST = ("tests/simulation", "tests/faults", "tests/integration", "tests/contract")
"""Files are run several at a time: what takes minutes must not begin last."""

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    ranks = (n for n, each in enumerate(LONGEST_FIRST) if item.nodeid.startswith(each))
    return next(ranks, len(LONGEST_FIRST))


def _unique(word: str) -> str:
    return f"{word}-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Shared by all tests: who kills, pauses or cuts something brings it back before the end."""
    with Stack(proxied=True) as stack:
        yield stack


@pytest.fixture(scope="session")
def kafka(stack: Stack) -> Kafka:
    """The shared broker; `kafka.proxied_bootstrap_servers` leads through `kafka.proxies[0]`."""
    return stack.kafka


@pytest.fixture(scope="session")
def postgres(stack: Stack) -> Postgres:
    """The shared Postgres."""
    return stack.postgres


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of a new, empty database."""
    return postgres.create_database(_unique("test"))


@pytest.fixture(scope="session")
def admin(kafka: Kafka) -> AdminClient:
    """Kept for the whole run: futures of an AdminClient that is gone never end."""
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers})


@pytest.fixture
def topic(kafka: Kafka, admin: AdminClient) -> TopicFactory:
    """Makes a topic with a new name: `topic("input", partitions=3, config={...})` → its name."""

    def create(
        name: str = "topic", *, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        topic = NewTopic(_unique(name), partitions, config=dict(config or {}))
        admin.create_topics([topic])[topic.topic].result(30)
        kafka.wait_ready()
        return topic.topic

    return create


@pytest.fixture
def group() -> str:
    """A consumer group's name that no other test uses."""
    return _unique("group")
