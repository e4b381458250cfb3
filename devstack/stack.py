"""Kafka and Postgres together."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import TextIOWrapper
from pathlib import Path

from devstack.kafka import Kafka
from devstack.postgres import Postgres

PREFIX = "devstack-"
OWNER = ".owner"


class Stack:
    """Owns a `Kafka` and a `Postgres`: started on entry, gone on exit, data included.

    With a `data_dir`, or with `keep=True`, the data stays. Nothing is left running even when this
    process is killed; its temporary data is then removed by the next stack that starts.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        kafka_nodes: int = 1,
        proxied: bool = False,
        broker_config: Mapping[str, str] | None = None,
        postgres_settings: Mapping[str, str] | None = None,
        keep: bool = False,
    ) -> None:
        self.keep = keep or data_dir is not None
        self._owner: TextIOWrapper | None = None
        self.data_dir = data_dir.absolute() if data_dir else self._temporary_folder()
        self.kafka = Kafka(
            self.data_dir / "kafka", kafka_nodes, broker_config=broker_config, proxied=proxied
        )
        self.postgres = Postgres(self.data_dir / "postgres", postgres_settings)

    @property
    def environment(self) -> dict[str, str]:
        """What the processor reads to find its Kafka and its database."""
        return {
            "PROCESSOR_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "PROCESSOR_DATABASE__URL": self.postgres.url,
        }

    def start(self) -> None:
        """Starts both, side by side; returns when both serve."""
        with ThreadPoolExecutor(2) as pool:
            try:
                parts = [pool.submit(self.kafka.start), pool.submit(self.postgres.start)]
                for part in as_completed(parts):
                    part.result()
            except BaseException:
                # The other start then ends at once, instead of holding up the bad news.
                self._kill()
                raise

    def stop(self) -> None:
        """Stops both in order; `start` goes on with the same data."""
        with ThreadPoolExecutor(2) as pool:
            stopped = [pool.submit(self.kafka.stop), pool.submit(self.postgres.stop)]
        for part in stopped:
            part.result()

    def check(self) -> None:
        """StackError with the log's tail if a part has ended by itself."""
        self.kafka.check()
        self.postgres.check()

    def close(self) -> None:
        """Ends everything, and removes the data unless it is to be kept."""
        if self.keep:
            self.stop()
        self._kill()
        if not self.keep:
            shutil.rmtree(self.data_dir, ignore_errors=True)
        if self._owner is not None:
            self._owner.close()

    def _kill(self) -> None:
        self.kafka.close()
        self.postgres.close()

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _temporary_folder(self) -> Path:
        base = _disk()
        _sweep(base)
        # Named only once it is locked: a sweep at this moment must not take it for a leftover.
        unnamed = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))
        # Postgres, as another user, has its folder in there.
        unnamed.chmod(0o711)
        if not self.keep:
            self._owner = (unnamed / OWNER).open("w")
            fcntl.flock(self._owner, fcntl.LOCK_EX)
        return unnamed.rename(base / unnamed.name.removeprefix("."))


def _disk() -> Path:
    """A place on a disk: /tmp is memory on many machines, where a commit costs nothing."""
    disk = Path("/var/tmp")
    return disk if os.access(disk, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def _sweep(base: Path) -> None:
    """Removes what killed owners left: a lock on the folder's owner file ends with its owner."""
    for owner in base.glob(f"{PREFIX}*/{OWNER}"):
        try:
            with owner.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
        except OSError:
            continue  # In use, or another user's, or gone meanwhile.
