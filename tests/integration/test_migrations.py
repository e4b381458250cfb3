"""The schema `processor`: by the command, by the repository's alembic, by an installed wheel."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from command_line import CommandLine

from devstack import Proxy
from processor import revisions
from processor.errors import ConfigurationError, Exit, SchemaMismatch
from processor.operations import migrations
from processor.schema import SCHEMA, metadata
from processor.settings import Database, Settings

ROOT = Path(__file__).resolve().parents[2]


def settings_for(url: str, **more: float) -> Settings:
    return Settings(database=Database(url=url), **more)  # type: ignore[arg-type]


def alembic(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), *arguments],
        cwd=ROOT,
        env=CommandLine(ROOT).environment(database__url=url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def set_revision(url: str, revision: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE processor.alembic_version SET version_num = %s", (revision,))


def test_migrate_makes_what_the_code_declares(database: str) -> None:
    done = migrations.migrate(settings_for(database))
    assert (done.before, done.after) == (None, revisions.LATEST)
    assert [applied.revision for applied in done.applied] == list(migrations.REVISIONS)
    engine = migrations.engine(settings_for(database))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "version_table_schema": SCHEMA,
                "compare_server_default": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_only_the_schema_processor_is_touched(database: str) -> None:
    migrations.migrate(settings_for(database))
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT DISTINCT schemaname FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
    assert rows == [("processor",)]


def test_what_is_hot_and_small_is_stored_for_it(database: str) -> None:
    migrations.migrate(settings_for(database))
    with psycopg.connect(database) as connection:
        options = dict(
            connection.execute(
                "SELECT relname, reloptions FROM pg_class"
                " WHERE relnamespace = 'processor'::regnamespace AND reloptions IS NOT NULL"
            ).fetchall()
        )
        storage = connection.execute(
            "SELECT attstorage FROM pg_attribute"
            " WHERE attrelid = 'processor.outbox'::regclass AND attname = 'payload'"
        ).fetchone()
    assert "fillfactor=50" in options["progress"]
    for table in ("progress", "outbox"):
        assert "autovacuum_vacuum_scale_factor=0" in options[table]
    assert "vacuum_truncate=false" in options["outbox"]
    assert storage == ("e",)


def test_a_second_time_there_is_nothing_to_do(database: str) -> None:
    migrations.migrate(settings_for(database))
    again = migrations.migrate(settings_for(database))
    assert (again.before, again.after, again.applied) == (revisions.LATEST, revisions.LATEST, ())


def test_two_at_once_are_fine(database: str, tmp_path: Path) -> None:
    """One does the work while the other waits for it."""
    migrate = CommandLine(tmp_path, database__url=database)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: migrate.process("migrate", "--json"), range(2)))
    assert [each.code for each in done] == [0, 0], done
    assert {each.json["after"] for each in done} == {revisions.LATEST}
    assert sum(len(each.json["applied"]) for each in done) == len(migrations.REVISIONS)


def test_sqlalchemys_spelling_of_the_url_works(database: str) -> None:
    url = database.replace("postgresql://", "postgresql+psycopg://")
    assert migrations.migrate(settings_for(url)).after == revisions.LATEST
    assert migrations.check(settings_for(url)) == revisions.LATEST


def test_alembic_in_the_repository_does_the_same(database: str) -> None:
    assert "Running upgrade" in alembic(database, "upgrade", "head").stderr
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE processor.dedup_keys_7 (key uuid PRIMARY KEY)")
    assert "No new upgrade operations" in alembic(database, "check").stdout, "workers made it"
    assert migrations.migrate(settings_for(database)).applied == ()
    assert alembic(database, "downgrade", "base").returncode == 0
    with psycopg.connect(database) as connection:
        assert revisions.read_revision(connection) is None
        [[left]] = connection.execute("SELECT to_regclass('processor.dedup_keys_7')").fetchall()
    assert left is None


def test_alembic_writes_a_script_for_whoever_may_not_connect(database: str) -> None:
    script = alembic("postgresql://nobody@127.0.0.1:1/none", "upgrade", "head", "--sql").stdout
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(script.encode())
        assert revisions.require_revision(connection) == revisions.LATEST


def test_alembic_tells_a_failure_in_one_line() -> None:
    url = "postgresql://nobody:secret@127.0.0.1:1/none"
    environment = CommandLine(ROOT).environment(database__url=url, start_timeout_seconds="0.1")
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    told = (done.stdout + done.stderr).strip()
    assert len(told.splitlines()) == 1
    assert "does not answer" in told
    assert "secret" not in told


def test_check_is_bad_before_and_good_after(database: str) -> None:
    with pytest.raises(SchemaMismatch, match="processor migrate"):
        migrations.check(settings_for(database))
    migrations.migrate(settings_for(database))
    assert migrations.check(settings_for(database)) == revisions.LATEST


def test_the_direct_successor_is_left_as_it_is(database: str) -> None:
    """A worker of the old version, and its migrate, still run while the new one is rolled out."""
    migrations.migrate(settings_for(database))
    successor = revisions.successor(revisions.LATEST)
    set_revision(database, successor)
    assert migrations.check(settings_for(database)) == successor
    done = migrations.migrate(settings_for(database))
    assert (done.after, done.applied) == (successor, ())


def test_a_schema_from_the_future_is_refused(database: str) -> None:
    migrations.migrate(settings_for(database))
    set_revision(database, revisions.successor(revisions.successor(revisions.LATEST)))
    for command in (migrations.migrate, migrations.check):
        with pytest.raises(SchemaMismatch, match="newer version"):
            command(settings_for(database))


def test_a_role_needs_no_right_to_create_schemas_once_there_is_one(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS plain")
        connection.execute("CREATE ROLE plain LOGIN")
        plain = database.replace("postgres@", "plain@")
        with pytest.raises(ConfigurationError, match="permission denied"):
            migrations.migrate(settings_for(plain))
        connection.execute("CREATE SCHEMA processor AUTHORIZATION plain")
        assert migrations.migrate(settings_for(plain)).after == revisions.LATEST


def test_a_migration_that_is_under_way_is_waited_for(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "200ms")
    engine = migrations.engine(settings_for(database))
    with engine.begin() as other:
        other.execute(
            sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"),
            {"key": migrations.ADVISORY_LOCK},
        )
        with pytest.raises(Exception, match="another migration") as caught:
            migrations.migrate(settings_for(database))
    assert getattr(caught.value, "exit_code", None) == Exit.UNREACHABLE
    assert migrations.migrate(settings_for(database)).after == revisions.LATEST


def test_a_database_that_comes_back_is_waited_for(database: str, tmp_path: Path) -> None:
    """The command starts while nobody listens, and goes on when somebody does."""
    host, port = urlsplit(database).hostname, urlsplit(database).port
    assert host is not None
    assert port is not None
    proxy = Proxy(host, port)
    proxy.cut()
    try:
        run = CommandLine(
            tmp_path,
            database__url=database.replace(f"{host}:{port}", proxy.address),
            start_timeout_seconds="30",
        )
        with subprocess.Popen(
            run.command("migrate"),
            cwd=tmp_path,
            env=run.environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("waiting up to 30 s: Postgres at")
            proxy.restore()
            assert process.wait(30) == 0
    finally:
        proxy.close()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the built wheel, and everything else from here."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, timeout=110)
    (wheel,) = folder.glob("processor-*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    target = ["--python", str(environment / "bin/python")]
    subprocess.run([*pip, *target, "install", "--no-deps", str(wheel)], check=True, timeout=60)
    # Last on the path, so that the wheel's package is found before this repository's.
    here = next(p for p in sys.path if p.endswith("site-packages"))
    (packages / "zz_dependencies.pth").write_text(f"{here}\n")
    return environment / "bin" / "processor"


def test_an_installed_wheel_brings_its_migrations(
    installed: Path, database: str, tmp_path: Path
) -> None:
    environment = CommandLine(tmp_path).environment(database__url=database)
    done = subprocess.run(
        [installed, "--debug", "migrate"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "applied 0001" in done.stdout
    with psycopg.connect(database) as connection:
        assert revisions.require_revision(connection) == revisions.LATEST


def test_the_wheel_is_complete_by_itself(installed: Path, tmp_path: Path) -> None:
    """The command of the test above ran from the wheel, not from the repository."""
    script = "import processor.operations.migrations as m; print(m.folder())"
    done = subprocess.run(
        [installed.parent / "python", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip().startswith(str(installed.parent.parent))
    assert done.stdout.strip().endswith("_migrations")
