"""Bad days at the terminal: one line that names the thing and the cure, and the exit code."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from command_line import CommandLine, command_line, write_pipeline

from devstack import Kafka
from processor import __version__
from processor.errors import Exit
from processor.operations import migrations
from processor.settings import Database, Settings

HELP_SECONDS = 0.6
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def run(tmp_path: Path, kafka: Kafka, database: str) -> CommandLine:
    return command_line(tmp_path, kafka, database)


@pytest.fixture
def job(run: CommandLine, group: str) -> str:
    return write_pipeline(run.directory, group, f"{group}-in", f"{group}-out")


@pytest.fixture
def migrated(database: str) -> None:
    migrations.migrate(Settings(database=Database(url=database)))  # type: ignore[arg-type]


def test_help_answers_at_once(tmp_path: Path) -> None:
    """By processor time, the least of a few runs: other tests share the machine."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [Path(sys.executable).parent / "processor", "--help"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < HELP_SECONDS


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """What makes it fast, without a clock."""
    script = (
        "import sys, processor.cli\n"
        "heavy = {'confluent_kafka', 'sqlalchemy', 'pydantic', 'psycopg', 'rich', 'msgspec'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_the_version(run: CommandLine) -> None:
    assert run("--version").out == f"processor {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [(), ("nonsense",), ("run",), ("check", "a:b", "--nonsense"), ("run", "a:b", "--workers", "0")],
)
def test_usage_errors_exit_2(run: CommandLine, arguments: tuple[str, ...]) -> None:
    found = run(*arguments)
    assert found.code == Exit.USAGE
    assert "Usage: processor" in found.err + found.out


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_module_that_is_not_there(run: CommandLine, command: str) -> None:
    found = run.process(command, "no_such_job:pipeline")
    assert found.code == Exit.USAGE
    assert found.error.startswith("error: there is no module 'no_such_job'")


def test_a_module_that_does_not_import(run: CommandLine) -> None:
    (run.directory / "job.py").write_text("import no_such_library\n")
    found = run.process("run", "job:pipeline")
    assert found.code == Exit.USAGE
    assert "no_such_library" in found.error
    assert "job.py, line 1" in found.error


def test_an_unknown_setting_in_the_environment(run: CommandLine) -> None:
    found = run("migrate", batchmax="3")
    assert found.code == Exit.USAGE
    assert "PROCESSOR_BATCHMAX is no setting" in found.error


def test_an_unknown_setting_in_the_file(run: CommandLine) -> None:
    (run.directory / "processor.toml").write_text("batch_max = 3\n")
    found = run("migrate")
    assert found.code == Exit.USAGE
    assert "batch_max" in found.error


def test_a_property_that_belongs_to_the_engine(run: CommandLine) -> None:
    text = '[kafka.consumer]\n"isolation.level" = "read_uncommitted"\n'
    (run.directory / "processor.toml").write_text(text)
    found = run("migrate")
    assert found.code == Exit.USAGE
    assert "'isolation.level' is the engine's" in found.error


def test_a_property_that_librdkafka_does_not_know(run: CommandLine) -> None:
    (run.directory / "processor.toml").write_text('[kafka.client]\n"no.such" = "1"\n')
    found = run("topics", "list")
    assert found.code == Exit.USAGE
    assert 'No such configuration property: "no.such"' in found.error


def test_credentials_that_kafka_refuses_are_told_at_once(run: CommandLine) -> None:
    client = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "secret",
    }
    found = run("topics", "list", kafka__client=json.dumps(client))
    assert found.code == Exit.USAGE
    assert "refuses the connection: SASL PLAIN" in found.error
    assert "see kafka.client" in found.error
    assert "secret" not in found.err


@pytest.mark.usefixtures("migrated")
def test_the_broker_is_away(run: CommandLine, job: str) -> None:
    away = {"kafka__bootstrap_servers": NOWHERE, "start_timeout_seconds": "1"}
    for arguments in (("topics", "create", job), ("run", job)):
        found = run.process(*arguments, **away)
        assert found.code == Exit.UNREACHABLE
        assert f"Kafka at {NOWHERE} does not answer" in found.err.splitlines()[-1]
        assert "Traceback" not in found.err


def test_the_database_is_away(run: CommandLine) -> None:
    url = f"postgresql://me:secret@{NOWHERE}/orders"
    found = run.process("migrate", database__url=url, start_timeout_seconds="0.5")
    assert found.code == Exit.UNREACHABLE
    assert f"Postgres at {NOWHERE}/orders does not answer: Connection refused" in found.error
    assert "secret" not in found.err


def test_there_is_no_such_database(run: CommandLine, database: str) -> None:
    found = run("migrate", database__url=f"{database}-nope")
    assert found.code == Exit.USAGE
    assert "there is no such database" in found.error


@pytest.fixture
def locked_role(database: str) -> Iterator[str]:
    """A role whose password is asked for, on a server that trusts everybody else."""
    name = "locked_role"
    with psycopg.connect(database, autocommit=True) as connection:
        found = connection.execute("SHOW hba_file").fetchone()
        assert found is not None
        rules = Path(found[0])
        before = rules.read_text()
        connection.execute(f"DROP ROLE IF EXISTS {name}")
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
        rules.write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        yield name
        rules.write_text(before)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("credentials", ["{}", "{}:wrong"])
def test_a_wrong_password_is_told_at_once(
    run: CommandLine, database: str, locked_role: str, credentials: str
) -> None:
    url = database.replace("postgres@", f"{credentials.format(locked_role)}@")
    start = time.monotonic()
    found = run.process("migrate", database__url=url)
    assert found.code == Exit.USAGE
    assert f"refuses user '{locked_role}': wrong or missing password" in found.error
    assert time.monotonic() - start < 20


@pytest.mark.usefixtures("migrated")
def test_a_missing_topic_names_the_command(run: CommandLine, job: str, group: str) -> None:
    found = run.process("run", job)
    assert found.code == Exit.USAGE
    last = found.err.splitlines()[-1]
    assert f"'{group}-in'" in last
    assert "processor topics create" in last
    assert "Traceback" not in found.err


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_missing_schema_names_the_command(run: CommandLine, job: str, command: str) -> None:
    run("topics", "create", job)
    found = run(command, job)
    assert found.code == Exit.SCHEMA
    last = found.err.splitlines()[-1]
    assert "run: processor migrate" in last
    assert "Traceback" not in found.err


def test_migrate_check_exits_4_when_behind(run: CommandLine) -> None:
    assert run("migrate", "--check").code == Exit.SCHEMA
    assert run("migrate").code == Exit.OK
    assert run("migrate", "--check").code == Exit.OK


@pytest.mark.usefixtures("migrated")
def test_a_group_or_a_pipeline_must_be_named(run: CommandLine, job: str) -> None:
    for arguments in (("status",), ("status", job, "--group", "g")):
        found = run(*arguments)
        assert found.code == Exit.USAGE
        assert "give a pipeline (module:attribute) or --group NAME" in found.error


def heed_ctrl_c() -> None:
    """Where the tests run in a shell's background, which ignores it, children would as well."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_exits_130_without_a_word(run: CommandLine) -> None:
    url = f"postgresql://me@{NOWHERE}/orders"
    with subprocess.Popen(
        run.command("migrate"),
        cwd=run.directory,
        env=run.environment(database__url=url),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == ""


def test_a_bug_says_so_and_where_its_traceback_is(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(migrations, "migrate", broken)
    found = run("migrate")
    assert found.code == Exit.BUG
    assert found.error.startswith("error: ZeroDivisionError: two lines — this is a bug")
    assert "--debug" in found.error
    for told in (run("--debug", "migrate"), run("migrate", log_level="debug")):
        assert told.code == Exit.BUG
        assert "Traceback" in told.err
