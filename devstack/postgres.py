"""A real Postgres."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from devstack.errors import StackError
from devstack.parts import postgres as postgres_part
from devstack.ports import free_port
from devstack.process import Child, User
from devstack.slot import Slot
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

    `replica_of` makes it a hot standby of a running one, by streaming: the first start copies the
    primary. `stop_receiving` leaves it behind, `promote` makes it a primary.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: Mapping[str, str] | None = None,
        *,
        replica_of: Postgres | None = None,
    ) -> None:
        self.settings = dict(settings or {})
        self._primary = replica_of
        self.port = free_port()
        self._user = _server_user()
        self._borrowed: list[Path] = []
        self._folder = self._reachable(data_dir.absolute())
        self._data = self._folder / "data"
        self._programs = self._reachable_programs()
        self._slot = Slot("Postgres")
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
        return self._slot.child

    @property
    def running(self) -> bool:
        return self._slot.alive

    def start(self) -> None:
        """Makes the data folder (the first time), starts, waits until connections are taken."""
        if self.running:
            return
        if not self._data.exists():
            self._initialise()
        self._write_settings()
        if self._killed:
            # Its process id may be another process's by now; then Postgres would not start.
            (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._slot.fill(lambda: self._process("postgres", "-D", self._data))
        self._killed = False
        wait_until(self._is_ready, READY_SECONDS, f"Postgres on port {self.port}")

    def stop(self) -> None:
        """Fast shutdown: breaks connections, rolls back, ends in order. Nothing if not running."""
        self._slot.stop(signal.SIGINT, STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL for the postmaster and every process of its: a crash. Start then recovers."""
        self._killed = self._slot.kill() or self._killed

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

    def stop_receiving(self) -> None:
        """Nothing more comes from the primary; on return it stands still, and can be read."""
        self._ask("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        wait_until(
            lambda: not self._ask("SELECT 1 FROM pg_stat_wal_receiver"),
            READY_SECONDS,
            "the end of replication",
        )

    def promote(self) -> None:
        """Makes a replica take writes; returns when it does."""
        self._ask("SELECT pg_promote()")
        self._primary = None

    def close(self) -> None:
        """Kills it, since its data is no longer wanted, and removes what it put elsewhere; final.

        A start that is under way on another thread then fails.
        """
        self._slot.close()
        for folder in self._borrowed:
            shutil.rmtree(folder, ignore_errors=True)

    def check(self) -> None:
        """StackError with the log's tail if it has ended by itself."""
        self._slot.check()

    def _ask(self, *statements: str) -> list[tuple[object, ...]]:
        """The rows of the last one."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall()

    def _is_ready(self) -> bool:
        import psycopg

        self.check()
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        # Made under another name: an initdb that was killed leaves what looks complete.
        fresh = self._folder / "data.fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        if self._primary is None:
            self._make(fresh)
        else:
            self._copy(self._primary, fresh)
        fresh.rename(self._data)

    def _copy(self, primary: Postgres, fresh: Path) -> None:
        options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-d", primary.url]
        self._slot.run(
            lambda: self._process("pg_basebackup", "-D", fresh, *options), INITDB_SECONDS
        )

    def _make(self, fresh: Path) -> None:
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]
        # Not synced: a machine that loses power in the next seconds loses nothing of worth.
        self._slot.run(
            lambda: self._process("initdb", "-D", fresh, *options, "--no-sync"), INITDB_SECONDS
        )
        with (fresh / "postgresql.conf").open("a") as file:
            file.write(f"include '{SETTINGS_FILE}'\n")

    def _process(self, program: str, *arguments: str | Path) -> Child:
        return Child(
            program,
            [self._programs / program, *arguments],
            log=self._folder / f"{program}.log",
            user=self._user,
            directory=self._folder,
        )

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
        user = self._user
        asked = subprocess.run(
            ["test", "-x", folder],
            cwd="/",
            timeout=READY_SECONDS,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
        return asked.returncode == 0

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
