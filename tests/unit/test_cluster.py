"""Readings of K, over an admin client that is told what to answer."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from processor.engine.batch import Partition
from processor.engine.cluster import Cluster
from tests.support.engine import free_steps

PARTITION = Partition("input", 0)


class Admin:
    """One whose group's coordinator answers with this code."""

    def __init__(self, code: int) -> None:
        self.asked_for_offsets = False
        self._code = code

    def poll(self, _timeout: float) -> None: ...

    def describe_consumer_groups(self, groups: list[str], **_: Any) -> dict[str, Future[None]]:
        return {groups[0]: refused(self._code)}

    def list_consumer_group_offsets(self, _: Any, **__: Any) -> dict[str, Future[None]]:
        self.asked_for_offsets = True
        return {"group": refused(KafkaError.GROUP_AUTHORIZATION_FAILED)}


def refused(code: int) -> Future[None]:
    future: Future[None] = Future()
    future.set_exception(KafkaException(KafkaError(code)))
    return future


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        (KafkaError.NOT_COORDINATOR, False),
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, False),
        (KafkaError._TIMED_OUT, False),
        (KafkaError.GROUP_ID_NOT_FOUND, True),
    ],
)
def test_only_a_coordinator_is_asked_for_offsets(code: int, asked: bool) -> None:
    """Any other broker's answer would end the process."""
    admin = Admin(code)
    found = Cluster(lambda _: admin, "group", free_steps()).committed([PARTITION])
    assert admin.asked_for_offsets == asked
    assert isinstance(found[PARTITION], str), "it is not known, and no offset is made up"
