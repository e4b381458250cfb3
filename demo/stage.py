"""What the demo plays on: Kafka, Postgres, the schemas, the topics and the processor."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from demo.traffic import Traffic
from devstack import Service, Stack, StackError
from devstack.process import Child
from devstack.waiting import wait_until

ROOT = Path(__file__).parents[1]
PIPELINE = "pipelines.user_events:pipeline"
PARTITIONS = 12
SETUP_SECONDS = 90.0
SETUP = {
    "processor migrate": ["processor", "migrate"],
    "alembic upgrade": ["alembic", "-n", "user_events", "upgrade", "head"],
    "topics create": ["processor", "topics", "create", PIPELINE, "--partitions", str(PARTITIONS)],
}


class Stage:
    """Everything that is started here has ended when the `with` block is left.

    Its files go with the stack's data, even after a kill. `keep_logs` copies the logs to where
    they stay, which is done after any error as well.
    """

    def __init__(self, workers: int) -> None:
        self.kept_logs: Path | None = None
        self._workers = workers
        self._copies: dict[str, Path | str] = {}
        self._open = ExitStack()
        self._stack: Stack | None = None
        self._service: Service | None = None

    @property
    def stack(self) -> Stack:
        assert self._stack is not None, "the stack is started first"
        return self._stack

    @property
    def service(self) -> Service:
        assert self._service is not None, "the processor is started first"
        return self._service

    @property
    def folder(self) -> Path:
        return self.stack.data_dir / "demo"

    @property
    def log(self) -> Path:
        """The processor's."""
        return self.folder / "processor.log"

    @property
    def environment(self) -> dict[str, str]:
        """The processor's whole configuration: a file or variables of the user's do not count."""
        return {
            **self.stack.environment,
            "PROCESSOR_CONFIG": str(self.folder / "processor.toml"),
            "PROCESSOR_LOG_FORMAT": "json",
        }

    def start_stack(self) -> None:
        self._stack = self._open.enter_context(Stack())
        self.folder.mkdir()
        (self.folder / "processor.toml").touch()
        self.log.touch()

    def create_tables_and_topics(self) -> None:
        """Side by side: they have nothing to do with each other.

        :raises StackError: with what it said, when one fails.
        """
        children: list[Child] = []
        try:
            children += map(self._module, SETUP)
            wait_until(lambda: not any(child.alive for child in children), SETUP_SECONDS, "set-up")
            for child in children:
                if child.exit_code:
                    raise StackError(f"{child.name} failed{child.log_tail()}")
        finally:
            for child in children:
                child.kill()

    def start_processor(self) -> None:
        self._service = self._open.enter_context(
            Service(
                PIPELINE,
                workers=self._workers,
                log=self.log,
                environment=self.environment,
                directory=ROOT,
            )
        )

    def start_traffic(self, rate: float) -> Traffic:
        return self._open.enter_context(Traffic(self.stack.kafka.bootstrap_servers, rate))

    def check(self) -> None:
        """:raises StackError: with a log's tail when a part has ended by itself."""
        if self._stack is not None:
            self._stack.check()
        if self._service is not None:
            self._service.child.check()

    def drain(self) -> None:
        """SIGTERM for the processor; it must end well.

        :raises StackError: when it does not.
        """
        service, self._service = self.service, None
        code = service.drain()
        if code:
            raise StackError(
                f"the processor ended its drain with exit code {code}{service.child.log_tail()}"
            )

    def keep_logs(self) -> None:
        """Once; nothing happens before there is a stack."""
        if self._stack is None or self.kept_logs is not None:
            return
        self.kept_logs = Path(tempfile.mkdtemp(prefix="processor-demo-"))
        servers = [node.log for node in self._stack.kafka.nodes] + [self._stack.postgres.log]
        for log in [*self.folder.glob("*.log"), *servers]:
            if log.exists():
                self._copies[str(log)] = shutil.copy(log, self.kept_logs)

    def where_kept(self, text: str) -> str:
        """A message that names logs, with the names of their copies."""
        for log, copy in self._copies.items():
            text = text.replace(log, str(copy))
        return text

    def _module(self, name: str) -> Child:
        return Child(
            name,
            [sys.executable, "-m", *SETUP[name]],
            log=self.folder / f"{name.replace(' ', '-')}.log",
            environment=self.environment,
            directory=ROOT,
        )

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None and not isinstance(error, KeyboardInterrupt):
                self.keep_logs()
        finally:
            self._open.close()


def forget_settings() -> None:
    """Variables of a shell that was set up to look around at another demo are not for this one."""
    for name in [name for name in os.environ if name.startswith("PROCESSOR_")]:
        del os.environ[name]
