"""Failover to a replica that lags: history is lost, every partition must halt, none may go on.

Then the old primary comes back, and the partitions go on by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from devstack import Postgres, StackError
from devstack.waiting import wait_until
from processor.engine.batch import Committed
from processor.engine.halts import Halt
from tests.faults.chaos.offsets import Offsets
from tests.faults.chaos.pipeline import GROUP, TOLD
from tests.faults.chaos.stage import OUTPUT_PARTITIONS, Stage
from tests.faults.chaos.states import states

LAG_SECONDS = 60.0
HALT_SECONDS = 60.0
WATCH_SECONDS = 4.0
BACK_SECONDS = 90.0

_LEVELS = "SELECT partition, {} FROM processor.progress WHERE group_id = %s"


class WentOnError(Exception):
    """Something was done on a database that has lost history."""


def fail_over(stage: Stage, tell: Callable[[str], None]) -> float:
    """The whole episode, with messages coming in all the while. Nobody else reads Postgres.

    :returns: how long it took until all partitions had halted, in seconds.
    :raises WentOnError: when a partition did anything but halt.
    :raises StackError: when they did not halt, or did not go on afterwards, in time.
    """
    primary = stage.stack.postgres
    offsets = Offsets(stage.stack.kafka.bootstrap_servers)
    with Postgres(stage.stack.data_dir / "replica", replica_of=primary) as replica:
        replica.stop_receiving()
        url = stage.url.replace(f":{primary.port}/", f":{replica.port}/")
        left_behind = _heads(url)

        def lags() -> bool:
            """By P, below which everything is in Kafka."""
            floors = _levels(stage.url, "published_offset")
            return all(floors[number] > head for number, head in left_behind.items())

        try:
            wait_until(lags, LAG_SECONDS, "the replica to lag in every partition")
        except StackError as error:
            levels = sorted(_levels(stage.url, "published_offset").items())
            told = [
                (each.partition, each.slot, each.state, each.detail) for each in states(stage.url)
            ]
            raise StackError(f"{error}; P {levels}, H was {left_behind}, {told}") from None
        primary.kill()
        replica.promote()
        _lead_to(stage, replica)
        tell("Postgres has failed over to a replica that lags")
        began = time.monotonic()
        wait_until(lambda: _all_halted(url, stage.partitions), HALT_SECONDS, "all to halt")
        took = time.monotonic() - began
        _watch(stage, offsets, url, left_behind)
        _lead_to(stage, None)
    tell(f"all partitions halted after {took:.1f} s and stood still; the old primary is back")
    primary.start()
    before = _heads(stage.url)
    _lead_to(stage, primary)
    wait_until(
        lambda: all(head > before[n] for n, head in _heads(stage.url).items()),
        BACK_SECONDS,
        "all partitions to go on",
    )
    return took


def _lead_to(stage: Stage, postgres: Postgres | None) -> None:
    """Where the workers' connections lead from now on; None: nowhere."""
    if postgres is None:
        stage.proxy.cut()
        return
    stage.proxy.target = ("127.0.0.1", postgres.port)
    stage.proxy.cut()
    stage.proxy.restore()


def _all_halted(url: str, partitions: int) -> bool:
    found = states(url)
    reasons = [each.reason for each in found if each.state == "halted"]
    return reasons == [Halt.DATABASE_HISTORY_LOST] * partitions


def _watch(stage: Stage, offsets: Offsets, url: str, left_behind: dict[int, int]) -> None:
    """Nothing moves, in either store."""
    before = _seen(stage, offsets, url)
    time.sleep(WATCH_SECONDS)
    after = _seen(stage, offsets, url)
    if before != after:
        raise WentOnError(f"halted, and yet it moved from {before} to {after}")
    if after[0] != left_behind:
        raise WentOnError(f"the replica was at {left_behind}, and is at {after[0]}")


Seen = tuple[dict[int, int], dict[int, Committed], dict[int, int]]


def _seen(stage: Stage, offsets: Offsets, url: str) -> Seen:
    """H, K and where the output topic ends."""
    k = offsets.committed(range(stage.partitions))
    return _heads(url), k, offsets.ends(TOLD, range(OUTPUT_PARTITIONS))


def _heads(url: str) -> dict[int, int]:
    return _levels(url, "next_offset")


def _levels(url: str, column: str) -> dict[int, int]:
    with psycopg.connect(url) as connection:
        query = _LEVELS.format(column).encode()
        return dict(connection.execute(query, (GROUP,)).fetchall())
