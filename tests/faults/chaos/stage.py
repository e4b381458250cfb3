"""What the campaign plays on: Kafka and Postgres behind proxies, schema, topics, the workers."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import psycopg
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr

from devstack import Proxy, Service, Stack, StackError
from devstack.parts import faketime_environment
from processor.operations import migrations
from processor.settings import Database as DatabaseSettings
from processor.settings import Settings
from tests.faults.chaos import armed
from tests.faults.chaos.pipeline import DEFINITIONS, GROUP, NUMBERS, TOLD
from tests.support.processes import STOPPED, state_of

ROOT = Path(__file__).parents[3]
REFERENCE = "tests.faults.chaos.pipeline:pipeline"
OUTPUT_PARTITIONS = 6
CREATE_SECONDS = 30.0
SESSION_SECONDS = 6
TRANSACTION_SECONDS = 10
FETCH_BYTES = 8 * 1024
"""Of one partition at a time: numbers are small, and a backlog is to be taken in turns."""
BATCH_MESSAGES = 500
"""A batch with a bad message runs message by message: let that be few."""
BROKER = {
    # An abandoned transaction is ended when its time is over, not up to 10 s later.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
MAIN, CLOCKED, GUEST = "main", "clocked", "guest"
"""The services. The clocked one has a wall clock of its own; the guest comes and goes."""


ENDED = re.compile(r"code='([^']+)'")
EXPECTED_ENDS = ("exit 0", "killed by SIGKILL", "killed by SIGTERM")


def standing(service: Service) -> list[str]:
    """Workers that somebody has stopped and nobody has continued."""
    return [f"worker {pid} was stopped" for pid in service.workers() if state_of(pid) == STOPPED]


class Stage:
    """Everything that is started here has ended when the ``with`` block is left."""

    def __init__(self, nodes: int, partitions: int, workers: int) -> None:
        self.partitions = partitions
        self.services: dict[str, Service] = {}
        self.lock = threading.Lock()
        """Held by whoever starts or ends a service."""
        self.stopping = threading.Event()
        """Set when the campaign ends early: nobody waits for anything then."""
        self.clock: Path | None = None
        """What stands in it is added to the clocked service's time; None: there is no such way."""
        self.standing: list[str] = []
        """Workers whose processes were stopped when they were to drain."""
        self._nodes = nodes
        self._workers = {MAIN: max(1, workers - 1), CLOCKED: 1}
        self._open = ExitStack()
        self._logs: list[Path] = []

    def __enter__(self) -> Stage:
        try:
            self._set_up()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for service in self.services.values():
            service.close()
        self._open.close()

    def start(self, name: str, workers: int | None = None) -> Service:
        """One of the services; one worker has its own clock, the rest of them share the main."""
        log = self.folder / f"{name}-{len(self._logs)}.log"
        self._logs.append(log)
        service = Service(
            REFERENCE,
            workers=workers or self._workers[name],
            log=log,
            environment=self._environment(name),
            directory=ROOT,
        )
        self.services[name] = service
        return service

    def start_all(self) -> None:
        """The guest is not there yet."""
        for name in self._workers:
            self.start(name)

    def drain(self) -> dict[str, int]:
        """The exit codes by service."""
        with self.lock:
            before = {name: standing(service) for name, service in self.services.items()}
            codes = {name: service.drain() for name, service in self.services.items()}
            self.services.clear()
        self.standing = [f"{name}'s {each}" for name, found in before.items() for each in found]
        return codes

    def worker_pids(self) -> list[tuple[Service, int]]:
        with self.lock:
            return [(each, pid) for each in self.services.values() for pid in each.workers()]

    def check(self) -> None:
        """:raises StackError: when a supervisor has ended by itself."""
        with self.lock:
            for service in self.services.values():
                service.child.check()

    def halts(self) -> list[str]:
        """What was logged of partitions that halted."""
        return [line for line in self._lines() if " halts: " in line]

    def ends(self) -> Counter[str]:
        """How worker processes have ended that nobody killed."""
        found = (ENDED.search(line) for line in self._lines() if "worker-ended" in line)
        return Counter(each[1] for each in found if each and each[1] not in EXPECTED_ENDS)

    def _lines(self) -> Iterator[str]:
        for log in self._logs:
            if log.exists():
                yield from log.read_text(errors="replace").splitlines()

    def keep_logs(self, folder: Path) -> None:
        """A copy of what the workers and the servers said."""
        folder.mkdir(parents=True, exist_ok=True)
        servers = [node.log for node in self.stack.kafka.nodes] + [self.stack.postgres.log]
        for number, log in enumerate([*self._logs, *servers]):
            if log.exists():
                (folder / f"{number:02}-{log.name}").write_bytes(log.read_bytes())

    def _set_up(self) -> None:
        self.stack = self._open.enter_context(
            Stack(kafka_nodes=self._nodes, proxied=True, broker_config=BROKER)
        )
        self.folder = self.stack.data_dir / "chaos"
        self.armed = self.folder / "armed"
        self.armed.mkdir(parents=True)
        armed.disarm(self.armed)
        self.url = self.stack.postgres.create_database("chaos")
        self.proxy = Proxy("127.0.0.1", self.stack.postgres.port)
        self._open.callback(self.proxy.close)
        migrations.migrate(Settings(database=DatabaseSettings(url=SecretStr(self.url))))
        with psycopg.connect(self.url) as connection:
            connection.execute(DEFINITIONS.encode())
        self._create_topics()
        try:
            clock = self.folder / "clock"
            clock.write_text("+0")
            self._clock_environment = faketime_environment(clock)
            self.clock = clock
        except StackError:
            self._clock_environment = {}

    def _create_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.stack.kafka.bootstrap_servers})
        topics = [NewTopic(NUMBERS, self.partitions), NewTopic(TOLD, OUTPUT_PARTITIONS)]
        for future in admin.create_topics(topics).values():
            future.result(CREATE_SECONDS)
        self.stack.kafka.wait_ready()

    def _environment(self, name: str) -> dict[str, str]:
        settings = {
            "config": str(self.folder / "processor.toml"),
            "kafka__bootstrap_servers": self.stack.kafka.proxied_bootstrap_servers,
            "kafka__session_timeout_seconds": str(SESSION_SECONDS),
            "kafka__transaction_timeout_seconds": str(TRANSACTION_SECONDS),
            "kafka__consumer": json.dumps({"fetch.message.max.bytes": FETCH_BYTES}),
            "database__url": self.url.replace(
                f":{self.stack.postgres.port}/", f":{self.proxy.port}/"
            ),
            "batch_max_messages": str(BATCH_MESSAGES),
            "batch_overlap_min_messages": str(BATCH_MESSAGES // 2),
            "group_id": GROUP,
            "instance": name,
        }
        (self.folder / "processor.toml").touch()
        return {
            **{f"PROCESSOR_{key.upper()}": value for key, value in settings.items()},
            **armed.environment(self.armed),
            **(self._clock_environment if name == CLOCKED else {}),
            "PYTHONUNBUFFERED": "1",
        }


def forget_settings() -> None:
    """The variables of whoever starts the campaign are not the campaign's."""
    for name in [name for name in os.environ if name.startswith("PROCESSOR_")]:
        del os.environ[name]
