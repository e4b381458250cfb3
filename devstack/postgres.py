"""A real Postgres."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from devstack.errors import StackError
from devstack.parts import postgres as postgres_part
from devstack.ports import free_port
from devstack.process import Child, User
from devstack.waiting import wait_until

HOST = "127.0.0.1"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
INITDB_SECONDS = 120.0
# Postgres refuses to run as root.
UNPRIVILEGED = ("postgres", "nobody")
SETTINGS_FILE = "devstack.conf"


class Postgres:
    """Real Postgres: a child process, trusting every connection from loopback.

    The data is below `data_dir`; when root (Postgres then runs as another user, who must be able
    to reach it) and `data_dir` is in a folder for root only, in a temporary folder instead, which
    `close` removes. fsync stays on, so that commits cost what they cost; `settings` is for
    postgresql.conf and may be changed between stop and start.
    """

    def __init__(self, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})
        self.port = free_port()
        self._user = _server_user()
        self._borrowed: list[Path] = []
        self._folder = self._reachable(data_dir.absolute())
        self._data = self._folder / "data"
        self._programs = self._reachable_programs()
        self._child: Child | None = None
        self._killed = False

    @property
    def log(self) -> Path:
        return self._folder / "postgres.log"

    @property
    def url(self) -> str:
        """Of the database `postgres`, as the superuser `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    @property
    def child(self) -> Child:
        """The postmaster; StackError when it was not started, or was stopped."""
        if self._child is None:
            raise StackError("Postgres is not running")
        return self._child

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.alive

    def start(self) -> None:
        """Makes the data folder (the first time), starts, waits until connections are taken."""
        if self.running:
            return
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._write_settings()
        if self._killed:
            # Its process id may be another process's by now; then Postgres would not start.
            (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._child = Child(
            "Postgres",
            [self._programs / "postgres", "-D", self._data],
            log=self.log,
            user=self._user,
            directory=self._folder,
        )
        self._killed = False
        wait_until(self._is_ready, READY_SECONDS, f"Postgres on port {self.port}")

    def stop(self) -> None:
        """Fast shutdown: breaks connections, rolls back, ends in order. Nothing if not running."""
        if self._child is not None:
            self._child.stop(signal.SIGINT, STOP_SECONDS)
            self._child = None

    def kill(self) -> None:
        """SIGKILL for the postmaster and every process of its: a crash. Start then recovers."""
        if self._child is not None:
            self._child.kill()
            self._child = None
            self._killed = True

    def pause(self) -> None:
        """SIGSTOP for the postmaster and its backends: connections stay open, none answers."""
        self.child.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.child.resume()

    def restart(self) -> None:
        """Stops it if it runs, and starts it."""
        self.stop()
        self.start()

    def create_database(self, name: str) -> str:
        """Creates a database; its URL."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url_of(name)

    def close(self) -> None:
        """Kills it, since its data is no longer wanted, and removes what it put elsewhere."""
        self.kill()
        for folder in self._borrowed:
            shutil.rmtree(folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        import psycopg

        self.child.check()
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        # Left over by an initdb that was interrupted; it would refuse to go on.
        shutil.rmtree(self._data, ignore_errors=True)
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]
        program = self._programs / "initdb"
        done = self._run_as_user([program, "-D", self._data, *options, "--no-sync"], INITDB_SECONDS)
        if done.returncode:
            raise StackError(f"initdb failed:\n{done.stdout}")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"include '{SETTINGS_FILE}'\n")

    def _write_settings(self) -> None:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            **self.settings,
        }
        lines = [f"{name} = '{_quoted(value)}'\n" for name, value in settings.items()]
        (self._data / SETTINGS_FILE).write_text("".join(lines))

    def _reachable(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if not self._can_enter(folder):
            folder = self._borrow()
        if self._user is not None:
            os.chown(folder, self._user.uid, self._user.gid)
        return folder

    def _reachable_programs(self) -> Path:
        """Programs fetched into a checkout for root only are copied to where the user gets at."""
        part = postgres_part()
        if self._can_enter(part.folder) or part.part is None:
            return part.folder
        copy = self._borrow() / "programs"
        shutil.copytree(part.part, copy, symlinks=True)
        return copy / part.folder.relative_to(part.part)

    def _borrow(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="devstack-postgres-"))
        folder.chmod(0o755)
        self._borrowed.append(folder)
        return folder

    def _can_enter(self, folder: Path) -> bool:
        return self._run_as_user(["test", "-x", folder], READY_SECONDS).returncode == 0

    def _run_as_user(
        self, command: Sequence[str | Path], timeout_seconds: float
    ) -> subprocess.CompletedProcess[str]:
        user = self._user
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            timeout=timeout_seconds,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )

    def __enter__(self) -> Postgres:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _server_user() -> User | None:
    """None: the user that we are."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return User(name, entry.pw_uid, entry.pw_gid)
    raise StackError(f"Postgres does not run as root, and there is no user {UNPRIVILEGED[0]}")


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
