"""`processor check` against the real broker and the real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from command_line import CommandLine, Finished, command_line, write_pipeline
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from devstack import Kafka
from processor.operations import migrations
from processor.settings import Database, Settings


@pytest.fixture
def run(tmp_path: Path, kafka: Kafka, database: str) -> CommandLine:
    return command_line(tmp_path, kafka, database)


@pytest.fixture
def ready(run: CommandLine, database: str, group: str) -> str:
    """A pipeline with all that it needs; returns its reference."""
    reference = write_pipeline(run.directory, group, f"{group}-in", f"{group}-out")
    assert run("topics", "create", reference, "--partitions", "2").code == 0
    migrations.migrate(Settings(database=Database(url=database)))  # type: ignore[arg-type]
    execute(database, "CREATE TABLE seen (id bigint PRIMARY KEY, text text NOT NULL)")
    return reference


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def errors(found: Finished) -> list[str]:
    return [each["what"] for each in found.json["findings"] if each["level"] == "error"]


def test_a_single_node_gives_warnings_only(run: CommandLine, ready: str) -> None:
    found = run("check", ready, "--json")
    assert errors(found) == []
    assert (found.code, found.json["verdict"]) == (0, "warning")
    assert run("check", ready, "--strict").code == 1


def test_the_table_is_for_people(run: CommandLine, ready: str) -> None:
    found = run("check", ready)
    assert "0 error(s)" in found.out
    assert "fsync is on" in found.out
    assert "table seen fits" in found.out


def test_everything_that_is_missing_is_found_at_once(run: CommandLine, group: str) -> None:
    reference = write_pipeline(run.directory, group, f"{group}-in", f"{group}-out")
    found = run("check", reference, "--json")
    assert found.code == 1
    assert errors(found) == [
        f"{group}-in does not exist",
        f"{group}-out does not exist",
        "the database has no schema 'processor', this version needs revision 0003",
        "table seen does not exist",
    ]


def test_a_table_that_does_not_fit(run: CommandLine, ready: str, database: str) -> None:
    execute(
        database,
        "DROP TABLE seen",
        "CREATE TABLE seen (id integer, text text, more text NOT NULL, fine serial)",
    )
    assert errors(run("check", ready, "--json")) == [
        "column seen.id is integer, declared as bigint",
        "seen.more is not declared, NOT NULL and without default",
        "seen has no unique key on (id)",
    ]


def test_missing_rights(run: CommandLine, ready: str, database: str) -> None:
    execute(
        database,
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN",
        "GRANT USAGE ON SCHEMA processor TO reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA processor TO reader",
        "GRANT SELECT, INSERT ON seen TO reader",
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public",
    )
    as_reader = database.replace("postgres@", "reader@")
    found = errors(run("check", ready, "--json", database__url=as_reader))
    assert "the configured user lacks UPDATE on seen" in found
    assert "the configured user lacks INSERT ON processor.outbox" in found
    assert "the configured user lacks EXECUTE ON FUNCTION pg_control_system()" in found
    assert not any("SELECT" in what for what in found)
    execute(database, "REVOKE USAGE ON SCHEMA processor FROM reader")
    blind = run("check", ready, "--json", database__url=as_reader)
    assert any("permission denied for schema processor" in what for what in errors(blind))


def test_what_is_away_is_a_finding_and_the_rest_is_looked_at(run: CommandLine, ready: str) -> None:
    nowhere = "127.0.0.1:1"
    found = run("check", ready, "--json", kafka__bootstrap_servers=nowhere)
    assert found.code == 1
    assert len(errors(found)) == 1
    assert errors(found)[0].startswith(f"Kafka at {nowhere} does not answer")
    assert any(each["area"] == "tables" for each in found.json["findings"])


def test_a_read_only_database_is_an_error(run: CommandLine, ready: str, database: str) -> None:
    name = database.rsplit("/", 1)[1]
    execute(database, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    assert errors(run("check", ready, "--json")) == ["the server is read-only"]


def test_synchronous_commit_may_be_off_for_the_database(
    run: CommandLine, ready: str, database: str
) -> None:
    name = database.rsplit("/", 1)[1]
    execute(database, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    found = run("check", ready, "--json")
    assert errors(found) == []
    whats = [each["what"] for each in found.json["findings"]]
    assert "synchronous_commit is off here; the processor turns it on" in whats


def test_time_outs_are_compared_with_the_brokers(run: CommandLine, ready: str) -> None:
    found = run(
        "check",
        ready,
        "--json",
        kafka__transaction_timeout_seconds="1000",
        kafka__session_timeout_seconds="3",
    )
    assert errors(found) == [
        "transactions of 1000000 ms are configured, the brokers allow 900000 ms",
        "a session of 3000 ms is outside the brokers' 6000 to 1800000 ms",
    ]


@pytest.fixture
def guarded_kafka(tmp_path: Path) -> Iterator[Kafka]:
    """A broker with ACLs: a resource without any is open to everybody."""
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    kafka = Kafka(tmp_path / "kafka", broker_config=authorizer)
    kafka.start()
    yield kafka
    kafka.close()


def reserve(admin: AdminClient, kind: ResourceType, name: str, operation: AclOperation) -> None:
    """Allow it to somebody else, and thereby to us no more."""
    pattern, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
    acl = AclBinding(kind, name, pattern, "User:somebody-else", "*", operation, allow)
    for future in admin.create_acls([acl]).values():
        future.result(10)


def test_missing_acls(run: CommandLine, ready: str, guarded_kafka: Kafka, group: str) -> None:
    servers = {"kafka__bootstrap_servers": guarded_kafka.bootstrap_servers}
    assert run("topics", "create", ready, **servers).code == 0
    assert errors(run("check", ready, "--json", **servers)) == []
    admin = AdminClient({"bootstrap.servers": guarded_kafka.bootstrap_servers, "log_level": 0})
    reserve(admin, ResourceType.TOPIC, f"{group}-out", AclOperation.WRITE)
    reserve(admin, ResourceType.GROUP, group, AclOperation.READ)
    reserve(admin, ResourceType.BROKER, "kafka-cluster", AclOperation.DESCRIBE_CONFIGS)
    found = run("check", ready, "--json", **servers)
    assert errors(found) == [
        f"WRITE on topic {group}-out is not granted",
        f"READ on group {group} is not granted",
    ]
    whats = [each["what"] for each in found.json["findings"] if each["level"] == "warning"]
    assert "the brokers' configuration may not be read, so durability is unknown" in whats
    refused = run("topics", "list", ready, **servers)
    assert (refused.code, "not allowed" in refused.error) == (2, True)
