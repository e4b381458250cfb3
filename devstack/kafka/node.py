"""One broker process, which is a controller as well."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from devstack.kafka import jvm
from devstack.kafka.properties import LOGGING, Ports, server_properties
from devstack.process import Child
from devstack.slot import Slot

STOP_SECONDS = 15.0
FORMAT_SECONDS = 60.0
FORMATTED = "meta.properties"


def kafka_id() -> str:
    """A random id in Kafka's notation, never one that looks like a command line's option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


class Node:
    """Numbered from 0. Its data survives stop and kill. `archive`: where an orderly end leaves
    the classes that it loaded."""

    def __init__(
        self,
        number: int,
        folder: Path,
        ports: Sequence[Ports],
        *,
        broker_config: Mapping[str, str],
        heap: str,
        log_level: str,
        archive: Path | None = None,
    ) -> None:
        self.number = number
        self.ports = ports[number]
        self._folder = folder
        self._data = folder / "data"
        self._heap = heap
        self._archive = archive
        self._name = f"Kafka node {number}"
        self._slot = Slot(self._name)
        folder.mkdir(parents=True, exist_ok=True)
        text = server_properties(number, ports, self._data, broker_config)
        self._properties = folder / "server.properties"
        self._properties.write_text(text)
        self._logging = folder / "log4j2.properties"
        self._logging.write_text(LOGGING.format(level=log_level))

    @property
    def log(self) -> Path:
        return self._folder / "broker.log"

    @property
    def child(self) -> Child:
        """The process; StackError when it was not started, or was stopped."""
        return self._slot.child

    @property
    def started(self) -> bool:
        """Wanted to run: it may have died."""
        return self._slot.filled

    @property
    def running(self) -> bool:
        return self._slot.alive

    @property
    def formatted(self) -> bool:
        return (self._data / FORMATTED).exists()

    def format(self, arguments: Sequence[str]) -> None:
        """Makes the data folder of a new cluster."""
        options = ["--cluster-id", kafka_id(), "--config", str(self._properties), *arguments]
        command = self._command("kafka.tools.StorageTool", ["format", *options])
        log = self._folder / "format.log"
        self._slot.run(lambda: Child("Kafka's storage tool", command, log=log), FORMAT_SECONDS)

    def format_like(self, first: Node) -> None:
        """Makes the data folder of another node of the same cluster.

        The folders differ in two lines: written here, they save a run of the tool for each node.
        """
        fresh = self._folder / "data.fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(first._data, fresh)
        file = fresh / FORMATTED
        text = re.sub("node.id=.*", f"node.id={self.number + 1}", file.read_text())
        file.write_text(re.sub("directory.id=.*", f"directory.id={kafka_id()}", text))
        fresh.rename(self._data)

    def start(self) -> None:
        """Starts the process, and does not wait."""
        if self.running:
            return
        options = [f"-XX:ArchiveClassesAtExit={self._archive}"] if self._archive else []
        command = self._command("kafka.Kafka", [self._properties], options)
        self._slot.fill(lambda: Child(self._name, command, log=self.log))

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Ends it by SIGTERM, in the end by SIGKILL."""
        self._slot.stop(signal.SIGTERM, timeout_seconds)

    def kill(self) -> None:
        self._slot.kill()

    def check(self) -> None:
        """StackError with the log's tail if it was started and has ended by itself."""
        self._slot.check()

    def close(self) -> None:
        """Kills it for good, and what another thread is starting."""
        self._slot.close()

    def _command(
        self, main_class: str, arguments: Sequence[str | Path], options: Sequence[str] = ()
    ) -> list[str | Path]:
        logging = f"-Dlog4j2.configurationFile={self._logging}"
        return jvm.command(main_class, arguments, heap=self._heap, options=[logging, *options])
