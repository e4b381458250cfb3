"""A contender at work on topics of its own; what it leaves behind is counted at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psycopg
from confluent_kafka import KafkaException

from bench.audit import audit_letters, audit_once, audit_outputs, audit_tables
from bench.contenders import Contender, Running
from bench.gauge import Committed
from bench.ground import Ground

POLL_SECONDS = 0.01


class Trial:
    """Begins with empty tables and an empty output topic."""

    def __init__(self, ground: Ground, contender: Contender, topic: str, partitions: int) -> None:
        """:param topic: the input, with its number of partitions."""
        self._ground = ground
        self.contender = contender
        self._partitions = partitions
        self.name = ground.name("group")
        self.output = ground.topic("output")
        if contender.tables:
            ground.empty_tables()
        with ground.connect() as connection:
            contender.prepare(connection, self.name)
        self.committed = Committed(ground.servers, self.name, topic, partitions)
        self.running = Running(
            contender,
            ground.stack.environment,
            (topic, self.output),
            self.name,
            ground.log(self.name),
        )

    def wait(self, reached: Callable[[Mapping[int, int]], bool], seconds: float) -> None:
        """Until the offsets, by partition, are where they are waited for.

        :raises SystemExit: when they do not get there.
        """
        deadline = time.monotonic() + seconds
        while not self._has(reached):
            self.running.check()
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.contender.name} stands still{self.running.log_tail()}")
            time.sleep(POLL_SECONDS)

    def _has(self, reached: Callable[[Mapping[int, int]], bool]) -> bool:
        try:
            return reached(self.committed.by_partition())
        except KafkaException:
            return False  # a new group's coordinator may be about to be

    def end(self) -> int:
        """SIGTERM, then the audit; how many messages were done.

        :raises SystemExit: when anything was lost or doubled.
        """
        self.running.end()
        done = self.committed.by_partition()
        with self._ground.connect() as connection:
            faults = self._faults(connection, done)
        if faults:
            raise SystemExit(f"{self.contender.name}: {'; '.join(faults[:5])}: no figure")
        self._ground.drop(self.output)
        return sum(done.values())

    def _faults(self, connection: psycopg.Connection, done: Mapping[int, int]) -> list[str]:
        servers, is_bad = self._ground.servers, self.contender.is_bad
        if self.contender.once:
            return audit_once(connection, servers, self.output, done, self._partitions)
        faults = audit_outputs(servers, self.output, done, is_bad)
        if self.contender.tables:
            counters = self.contender.counters
            faults += audit_tables(connection, done, is_bad, counters=counters)
        return faults + audit_letters(connection, self.name, done, is_bad)

    def kill(self) -> None:
        """Nothing of it is left; also after :meth:`end`."""
        self.running.kill()
        self.committed.close()
