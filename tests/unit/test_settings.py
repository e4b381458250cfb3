"""Configuration: where it comes from, and what is refused, in one line that names it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processor.errors import ConfigurationError, Exit
from processor.settings import ENGINE_OWNED, Settings, load

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes ``processor.toml`` in an empty working directory without any setting around."""
    for name in os.environ:
        if name.startswith("PROCESSOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def toml(text: str) -> Path:
        path = tmp_path / "processor.toml"
        path.write_text(text)
        return path

    return toml


def refused() -> str:
    """The one line in which loading fails."""
    with pytest.raises(ConfigurationError, match=r"\A[^\n]+\Z") as raised:
        load()
    assert raised.value.exit_code == Exit.USAGE
    return str(raised.value)


def test_everything_has_a_default() -> None:
    settings = load()
    assert settings.kafka.bootstrap_servers == "localhost:9092"
    assert settings.instance == socket.gethostname()
    assert settings.group_id is None
    assert settings.start_from == "earliest"


def test_the_file_is_read(write: Write) -> None:
    write(
        """
        group_id = "shop"
        batch_max_messages = 500

        [kafka]
        bootstrap_servers = "broker:9092"

        [kafka.client]
        "security.protocol" = "SSL"
        "socket.keepalive.enable" = true

        [kafka.producer]
        "compression.type" = "zstd"
        "linger.ms" = 0.5

        [database]
        url = "postgresql://me:secret@db/shop"
        """
    )
    settings = load()
    assert settings.group_id == "shop"
    assert settings.batch_max_messages == 500
    assert settings.kafka.bootstrap_servers == "broker:9092"
    assert settings.kafka.client["security.protocol"] == "SSL"
    assert settings.kafka.producer == {"compression.type": "zstd", "linger.ms": 0.5}
    assert settings.database.url.get_secret_value() == "postgresql://me:secret@db/shop"


def test_librdkafka_takes_a_boolean_of_the_file(write: Write) -> None:
    from confluent_kafka import Producer

    write('[kafka.client]\n"socket.keepalive.enable" = true\n"log.queue.x" = 1\n')
    client = load().kafka.client
    Producer(
        {"bootstrap.servers": "", "socket.keepalive.enable": client["socket.keepalive.enable"]}
    )


def test_the_environment_goes_before_the_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write('group_id = "from-file"\n[kafka]\nbootstrap_servers = "file:9092"\n')
    monkeypatch.setenv("PROCESSOR_KAFKA__BOOTSTRAP_SERVERS", "environment:9092")
    monkeypatch.setenv("PROCESSOR_KAFKA__CLIENT", '{"security.protocol": "SSL"}')
    settings = load()
    assert settings.group_id == "from-file"
    assert settings.kafka.bootstrap_servers == "environment:9092"
    assert settings.kafka.client == {"security.protocol": "SSL"}


def test_arguments_go_before_both(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write('group_id = "from-file"')
    monkeypatch.setenv("PROCESSOR_GROUP_ID", "from-environment")
    assert load().group_id == "from-environment"
    assert load(group_id="given").group_id == "given"


def test_another_file_can_be_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write('group_id = "here"')
    other = tmp_path / "other.toml"
    other.write_text('group_id = "there"')
    monkeypatch.setenv("PROCESSOR_CONFIG", str(other))
    assert load().group_id == "there"
    monkeypatch.setenv("PROCESSOR_CONFIG", str(tmp_path / "missing.toml"))
    assert "missing.toml, which is not a file" in refused()


@pytest.mark.parametrize("section", ["client", "consumer", "producer"])
@pytest.mark.parametrize("name", ENGINE_OWNED)
def test_what_the_engine_owns_is_refused_by_name(write: Write, section: str, name: str) -> None:
    write(f'[kafka.{section}]\n"{name}" = "1"\n')
    assert refused() == (
        f"kafka.{section}: {name!r} is the engine's ({ENGINE_OWNED[name]}); remove it"
    )


PROMISE = {
    "acks",
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "max.in.flight.requests.per.connection",
    "partitioner",
    "retries",
    "transaction.timeout.ms",
    "transactional.id",
}


def test_the_engine_owns_all_that_the_promise_rests_on() -> None:
    assert set(ENGINE_OWNED) >= PROMISE


@pytest.mark.parametrize("text", ["acks", "enable.idempotence", "isolation.level"])
def test_what_the_engine_owns_is_refused_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("PROCESSOR_KAFKA__PRODUCER", f'{{"{text}": "x"}}')
    assert f"'{text}' is the engine's" in refused()


def test_callbacks_are_refused(write: Write) -> None:
    write('[kafka.consumer]\n"error_cb" = "print"\n')
    assert refused().startswith("kafka.consumer: 'error_cb' is a callback")
    with pytest.raises(ConfigurationError, match=r"kafka\.client: 'logger' is a callback"):
        load(kafka={"client": {"logger": print}})


def test_a_property_without_quotes_is_told_to_be_quoted(write: Write) -> None:
    """Unquoted, TOML makes tables of it: ``acks`` could hide from its refusal in one."""
    write("[kafka.producer]\nenable.idempotence = false\n")
    assert refused() == (
        "kafka.producer: 'enable' has parts; write the property's whole name in quotes"
    )
    write('[kafka.producer]\n"default.topic.config" = { acks = 0 }\n')
    assert "'default.topic.config' has parts" in refused()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('grup_id = "x"', "grup_id: is no setting; see the list in docs/configuration.md"),
        ("[kafak]\nx = 1", "kafak: is no setting"),
        ("[kafka]\nbootstrap = 'x'", "kafka.bootstrap: is no setting"),
        ("[database]\nuri = 'x'", "database.uri: is no setting"),
        ("batch_max_messages = 0", "batch_max_messages: Input should be greater than or equal"),
        ("batch_max_messages = 'many'", "batch_max_messages: Input should be a valid integer"),
        ("[kafka]\ngroup_protocol = 'share'", "kafka.group_protocol: Input should be 'classic'"),
        ("[database]\nidle_in_transaction_timeout_seconds = 11", "idle_in_transaction_timeout"),
        (
            "[kafka]\nmax_poll_interval_seconds = 6",
            "must not be below session_timeout_seconds (10)",
        ),
        ("[kafka]\ntransaction_timeout_seconds = 9", "kafka.transaction_timeout_seconds: "),
        ("instance = ''", "instance: String should have at least 1 character"),
        ("log_level = 'loud'", "log_level: Input should be 'debug'"),
        ("kafka = 3", "kafka: "),
        ("this is no toml", "processor.toml: not valid TOML"),
    ],
)
def test_a_wrong_file_is_told_in_a_line(write: Write, text: str, complaint: str) -> None:
    write(text)
    assert complaint in refused()


def test_all_that_is_wrong_is_told_at_once(write: Write) -> None:
    write('grup_id = "x"\nbatch_max_bytes = -1\n[kafka.client]\n"acks" = 0\n')
    told = refused()
    for name in ("grup_id", "batch_max_bytes", "'acks'"):
        assert name in told


@pytest.mark.parametrize(
    "name",
    ["PROCESSOR_KAFAK__BOOTSTRAP_SERVERS", "PROCESSOR_GRUP_ID", "PROCESSOR_DATABASE_URL"],
)
def test_a_misspelt_variable_is_not_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    assert refused() == f"{name} is no setting; see the list in docs/configuration.md"


def test_a_misspelt_part_of_a_variable_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSOR_DATABASE__URI", "x")
    assert refused().startswith("database.uri: is no setting")


def test_a_variable_of_a_section_must_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSOR_KAFKA__CLIENT", "security.protocol=SSL")
    told = refused()
    assert '"kafka"' in told
    assert "a variable for a whole section holds JSON" in told


def test_variables_of_others_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSOR", "x86")
    monkeypatch.setenv("PROCESSORS_COUNT", "2")
    load()


def test_the_password_is_not_shown(write: Write) -> None:
    write('[database]\nurl = "postgresql://me:hunter2@db/shop"\n')
    assert "hunter2" not in repr(load())


def test_settings_do_not_change() -> None:
    settings: Any = load()
    assert isinstance(settings, Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.group_id = "other"
    with pytest.raises(ValueError, match="frozen"):
        settings.kafka.bootstrap_servers = "other:9092"
