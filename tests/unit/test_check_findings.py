"""What `processor check` concludes from facts, without any I/O."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

from processor import Pipeline
from processor.operations.broker import Cluster, Topic
from processor.operations.check import check_configuration, kafka, postgres, tables, worst
from processor.operations.check.finding import Finding, Level
from processor.operations.check.tables import FoundColumn, FoundTable
from processor.revisions import LATEST
from processor.settings import Kafka, Settings

GROUP = "orders"
BROKER = {
    "transaction.max.timeout.ms": "900000",
    "group.min.session.timeout.ms": "6000",
    "group.max.session.timeout.ms": "1800000",
    "offsets.retention.minutes": "10080",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "min.insync.replicas": "2",
}
ALL = frozenset({"READ", "WRITE", "DESCRIBE"})
TOPIC_CONFIG = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}


def pipeline(tables: MetaData | None = None) -> Pipeline:
    made = Pipeline(GROUP, outputs=["out"], tables=tables)

    @made.handler("in")
    def handle(value: bytes) -> None: ...

    return made


def described(name: str, **changes: object) -> Topic:
    return replace(Topic(name, "id", 12, 3, 3, ALL), **changes)  # type: ignore[arg-type]


def facts(**changes: object) -> kafka.Facts:
    sound = kafka.Facts(
        Cluster("c", (1, 2, 3), ALL),
        BROKER,
        {name: described(name) for name in ("in", "out", kafka.OFFSETS, kafka.TRANSACTIONS)},
        dict.fromkeys(("in", "out"), TOPIC_CONFIG),
        ALL,
    )
    return replace(sound, **changes)  # type: ignore[arg-type]


def judged(found: kafka.Facts, settings: Settings | None = None) -> list[Finding]:
    return list(kafka.judge(found, settings or Settings(), pipeline(), GROUP))


def only(findings: list[Finding], level: Level) -> list[str]:
    return [finding.what for finding in findings if finding.level is level]


def test_a_sound_cluster_gives_no_warning() -> None:
    assert worst(judged(facts())) is Level.OK


def test_every_problem_has_a_remedy() -> None:
    found = judged(facts(topics={}, broker={**BROKER, "min.insync.replicas": "1"}))
    assert all(finding.remedy for finding in found if finding.level is not Level.OK)
    assert worst(found) is Level.ERROR


def test_a_kafka_that_may_forget_a_transaction_is_warned_of() -> None:
    found = judged(facts(broker={**BROKER, kafka.SINCE_4_3: "2"}))
    [told] = only(found, Level.WARNING)
    assert "KAFKA-20734" in told


def test_a_single_node_is_warned_of_only() -> None:
    ones = dict.fromkeys(
        (
            "offsets.topic.replication.factor",
            "transaction.state.log.replication.factor",
            "transaction.state.log.min.isr",
            "min.insync.replicas",
        ),
        "1",
    )
    single = {name: described(name, replication=1, in_sync=1) for name in ("in", "out")}
    found = judged(
        facts(
            cluster=Cluster("c", (1,), ALL),
            broker={**BROKER, **ones},
            topics=single,
            topic_configs={name: {"min.insync.replicas": "1"} for name in single},
        )
    )
    assert worst(found) is Level.WARNING
    assert len(only(found, Level.WARNING)) == 6


def test_a_transaction_time_out_above_the_brokers_is_an_error() -> None:
    settings = Settings(kafka=Kafka(transaction_timeout_seconds=20))
    found = judged(facts(broker={**BROKER, "transaction.max.timeout.ms": "15000"}), settings)
    assert only(found, Level.ERROR) == [
        "transactions of 20000 ms are configured, the brokers allow 15000 ms"
    ]


@pytest.mark.parametrize("seconds", [3, 3600])
def test_a_session_outside_the_brokers_bounds_is_an_error(seconds: int) -> None:
    settings = Settings(
        kafka=Kafka(session_timeout_seconds=seconds, max_poll_interval_seconds=3600)
    )
    assert "outside the brokers'" in only(judged(facts(), settings), Level.ERROR)[0]


def test_the_new_group_protocol_leaves_the_session_to_the_brokers() -> None:
    settings = Settings(kafka=Kafka(session_timeout_seconds=3, group_protocol="consumer"))
    assert only(judged(facts(), settings), Level.ERROR) == []


def test_offsets_that_are_forgotten_soon_are_warned_of() -> None:
    found = judged(facts(broker={**BROKER, "offsets.retention.minutes": "60"}))
    assert only(found, Level.WARNING) == ["offsets of a stopped group are forgotten after 1h"]


def test_missing_topics_name_the_command() -> None:
    found = judged(facts(topics={"in": None, "out": described("out")}))
    assert [f for f in found if f.level is Level.ERROR] == [
        Finding(Level.ERROR, "topics", "in does not exist", "processor topics create PIPELINE")
    ]


def test_a_topic_that_refuses_writes_is_an_error() -> None:
    topics = {**facts().topics, "out": described("out", in_sync=1)}
    assert "writes are refused" in only(judged(facts(topics=topics)), Level.ERROR)[0]


def test_unclean_elections_are_warned_of() -> None:
    configs = {"in": {**TOPIC_CONFIG, "unclean.leader.election.enable": "true"}}
    assert "lacks committed" in only(judged(facts(topic_configs=configs)), Level.WARNING)[0]


def test_rights_are_compared_with_what_each_topic_needs() -> None:
    readable, writable = frozenset({"READ"}), frozenset({"WRITE"})
    swapped = {
        "in": described("in", operations=writable),
        "out": described("out", operations=readable),
    }
    found = judged(facts(topics=swapped, group_operations=frozenset({"DESCRIBE"})))
    assert only(found, Level.ERROR) == [
        "READ on topic in is not granted",
        "WRITE on topic out is not granted",
        "READ on group orders is not granted",
    ]


def test_a_broker_that_may_not_be_asked_is_a_warning() -> None:
    found = judged(facts(broker=None, topic_configs={}))
    assert only(found, Level.WARNING) == [
        "the brokers' configuration may not be read, so durability is unknown"
    ]


SERVER = {
    "server_version_num": "150004",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "superuser_reserved_connections": "3",
}


def server(settings: dict[str, str] | None = None, **changes: object) -> list[Finding]:
    sound = postgres.Facts({**SERVER, **(settings or {})}, False, False, 5, LATEST, ())
    return list(postgres.judge(replace(sound, **changes)))  # type: ignore[arg-type]


def test_a_sound_server_gives_no_warning() -> None:
    assert worst(server()) is Level.OK


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"fsync": "off"}, "fsync is off"),
        ({"full_page_writes": "off"}, "full_page_writes is off"),
        ({"server_version_num": "130012"}, "PostgreSQL 13.12 is too old"),
    ],
)
def test_settings_that_break_the_promise_are_errors(settings: dict[str, str], told: str) -> None:
    assert told in only(server(settings), Level.ERROR)[0]


def test_synchronous_commit_may_be_off_by_default() -> None:
    assert worst(server({"synchronous_commit": "off"})) is Level.OK


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"in_recovery": True, "read_only": True}, "a standby"),
        ({"read_only": True}, "read-only"),
        ({"revision": None}, "has no schema"),
        ({"revision": "0009"}, "0009"),
        ({"missing_rights": ("UPDATE ON processor.progress",)}, "lacks UPDATE"),
    ],
)
def test_a_server_that_cannot_be_used_is_an_error(changes: dict[str, object], told: str) -> None:
    found = [finding for finding in server(**changes) if finding.level is Level.ERROR]
    assert told in found[0].what
    assert found[0].remedy


def test_few_free_connections_are_warned_of() -> None:
    assert "2 connections are free" in only(server(connections=95), Level.WARNING)[0]


def test_start_from_must_be_a_place() -> None:
    made = pipeline(MetaData())
    for good in ("earliest", "latest", "2024-05-01T00:00:00Z"):
        assert worst(check_configuration(Settings(start_from=good), made, GROUP)) is Level.OK
    found = list(check_configuration(Settings(start_from="yesterday"), made, GROUP))
    assert only(found, Level.ERROR) == ["start_from is 'yesterday'"]


DECLARED = MetaData()
Table(
    "users",
    DECLARED,
    Column("id", BigInteger, primary_key=True),
    Column("name", Text),
    Column("seen", DateTime(timezone=True), nullable=False),
)
USERS = {
    "id": FoundColumn("bigint", False, False),
    "name": FoundColumn("text", True, False),
    "seen": FoundColumn("timestamp with time zone", False, False),
}
KEY = frozenset({frozenset({"id"})})


def compared(columns: dict[str, FoundColumn] | None = None, **changes: object) -> list[Finding]:
    table = FoundTable({**USERS, **(columns or {})}, (), KEY)
    return list(tables.judge(DECLARED, {"users": replace(table, **changes)}))  # type: ignore[arg-type]


def test_a_table_as_declared_fits() -> None:
    assert compared() == [Finding(Level.OK, "tables", "table users fits")]


def test_a_missing_table_is_an_error() -> None:
    assert only(list(tables.judge(DECLARED, {})), Level.ERROR) == ["table users does not exist"]


def test_a_missing_column_is_an_error() -> None:
    table = FoundTable({"id": USERS["id"], "seen": USERS["seen"]}, (), KEY)
    assert only(list(tables.judge(DECLARED, {"users": table})), Level.ERROR) == [
        "column users.name does not exist"
    ]


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ({"id": FoundColumn("integer", False, False)}, "users.id is integer, declared as bigint"),
        ({"name": FoundColumn("text", False, False)}, "users.name is NOT NULL"),
        ({"more": FoundColumn("text", False, False)}, "users.more is not declared, NOT NULL"),
        (
            {"seen": FoundColumn("timestamp without time zone", False, False)},
            "users.seen is timestamp without time zone",
        ),
    ],
)
def test_columns_that_would_refuse_rows_are_errors(
    column: dict[str, FoundColumn], told: str
) -> None:
    assert told in only(compared(column), Level.ERROR)[0]


@pytest.mark.parametrize(
    "column",
    [
        {"name": FoundColumn("text", False, True)},
        {"more": FoundColumn("text", False, True)},
        {"more": FoundColumn("text", True, False)},
    ],
)
def test_columns_that_the_database_fills_may_differ(column: dict[str, FoundColumn]) -> None:
    assert worst(compared(column)) is Level.OK


def test_a_type_that_we_do_not_know_is_warned_of() -> None:
    found = compared({"name": FoundColumn("citext", True, False)})
    assert only(found, Level.WARNING) == ["column users.name is citext, declared as text"]


def test_the_key_must_be_unique_in_the_database() -> None:
    assert only(compared(keys=frozenset()), Level.ERROR) == ["users has no unique key on (id)"]


@pytest.mark.parametrize(("makes", "may"), [(True, False), (True, True), (False, False)])
def test_a_pipeline_with_dedup_makes_tables(makes: bool, may: bool) -> None:
    found = postgres.judge(
        postgres.Facts(SERVER, False, False, 5, LATEST, (), may), makes_tables=makes
    )
    told = [each for each in found if "GRANT CREATE ON SCHEMA processor" in (each.remedy or "")]
    assert bool(told) is (makes and not may)


def test_missing_rights_name_the_grant() -> None:
    found = compared(missing_rights=("INSERT",))
    assert found[0].remedy == "GRANT INSERT ON users"


@pytest.mark.parametrize(
    ("column", "spelt"),
    [
        (Column("c", BigInteger), "bigint"),
        (Column("c", SmallInteger), "smallint"),
        (Column("c", String(20)), "character varying(20)"),
        (Column("c", Numeric(12, 2)), "numeric(12,2)"),
        (Column("c", Numeric), "numeric"),
        (Column("c", DateTime), "timestamp without time zone"),
        (Column("c", DateTime(timezone=True)), "timestamp with time zone"),
        (Column("c", TIMESTAMP(timezone=True, precision=3)), "timestamp(3) with time zone"),
        (Column("c", Uuid), "uuid"),
        (Column("c", JSONB), "jsonb"),
        (Column("c", ARRAY(Integer)), "integer[]"),
    ],
)
def test_types_are_spelt_as_in_the_catalogue(column: Column[object], spelt: str) -> None:
    assert tables.type_name(column) == spelt
    assert tables.fits(spelt, spelt)


@pytest.mark.parametrize(
    ("declared", "found", "expected"),
    [
        ("smallint", "bigint", True),
        ("bigint", "smallint", False),
        ("character varying(10)", "character varying(20)", True),
        ("character varying(20)", "character varying(10)", False),
        ("numeric(12,2)", "numeric", True),
        ("numeric", "numeric(12,2)", False),
        ("numeric(12,2)", "numeric(10,4)", False),
        ("text", "bytea", False),
        ("json", "jsonb", False),
    ],
)
def test_which_type_takes_which(declared: str, found: str, expected: bool) -> None:
    assert tables.fits(declared, found) is expected
