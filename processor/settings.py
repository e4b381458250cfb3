"""Configuration: ``processor.toml`` in the working directory, overridden by the environment.

``PROCESSOR_KAFKA__BOOTSTRAP_SERVERS`` is ``bootstrap_servers`` under ``[kafka]``. Properties of
librdkafka go, quoted, under ``[kafka.client]``, ``[kafka.consumer]`` and ``[kafka.producer]``;
those that the promise rests on belong to the engine and are refused by name.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from processor.errors import ConfigurationError

CONFIGURATION_FILE = "processor.toml"

ENGINE_OWNED = {
    "isolation.level": "only committed messages may be read",
    "enable.auto.commit": "offsets are committed in the transaction",
    "enable.auto.offset.store": "offsets are committed in the transaction",
    "auto.commit.interval.ms": "offsets are committed in the transaction",
    "auto.offset.reset": "a lost position must halt, not jump; see start_from",
    "enable.partition.eof": "idle partitions are found by it",
    "group.id": "set group_id",
    "group.instance.id": "set instance",
    "transactional.id": "made of group, instance and slot",
    "transaction.timeout.ms": "set kafka.transaction_timeout_seconds",
    "enable.idempotence": "the producer is always idempotent",
    "enable.gapless.guarantee": "the producer is always idempotent",
    "acks": "always all",
    "request.required.acks": "always all",
    "max.in.flight.requests.per.connection": "set for the idempotent producer",
    "max.in.flight": "set for the idempotent producer",
    "message.send.max.retries": "set for the idempotent producer",
    "retries": "set for the idempotent producer",
    "queuing.strategy": "order per partition rests on it",
    "partitioner": "murmur2_random, as Java's clients",
    "delivery.report.only.error": "the engine looks at the reports it needs",
    "log.connection.close": "silent re-sends are found by it",
    "log_level": "silent re-sends are found by it",
    "log.queue": "silent re-sends are found by it",
    "debug": "silent re-sends are found in the log lines",
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "metadata.broker.list": "set kafka.bootstrap_servers",
    "group.protocol": "set kafka.group_protocol",
    "session.timeout.ms": "set kafka.session_timeout_seconds",
    "max.poll.interval.ms": "set kafka.max_poll_interval_seconds",
    "socket.timeout.ms": "call time-outs are derived from it",
    "enable.metrics.push": "it opens transactions' connections late",
    "test.mock.num.brokers": "a mock broker proves nothing",
}
"""Properties of librdkafka that a user may not set, and why."""


def refuse_owned(properties: dict[str, Any]) -> dict[str, Any]:
    for name in properties:
        why = ENGINE_OWNED.get(name)
        if why is not None:
            raise ValueError(f"{name!r} is the engine's ({why}); remove it")
        if callable(properties[name]) or name.endswith("_cb"):
            raise ValueError(f"{name!r} is a callback; callbacks are the engine's")
        if isinstance(properties[name], (dict, list)):
            raise ValueError(  # noqa: TRY004  # pydantic takes this one as a verdict
                f"{name!r} has parts; write the property's whole name in quotes"
            )
    return {
        name: str(value) if isinstance(value, bool) else value for name, value in properties.items()
    }


Properties = Annotated[dict[str, Any], AfterValidator(refuse_owned)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(_Section):
    bootstrap_servers: str = "localhost:9092"
    group_protocol: Literal["classic", "consumer"] = "classic"
    """``consumer`` is the protocol of KIP-848."""
    static_membership: bool = True
    """A worker that comes back within the session keeps its partitions, without a rebalance."""
    session_timeout_seconds: Annotated[float, Field(ge=1)] = 10.0
    max_poll_interval_seconds: Annotated[float, Field(ge=5)] = 45.0
    """The longest that one handler call may take; a rebalance waits no longer for a worker."""
    transaction_timeout_seconds: Annotated[float, Field(ge=10)] = 12.0
    """At least librdkafka's ``socket.timeout.ms``, which the engine sets to 10 s."""
    client: Properties = {}
    consumer: Properties = {}
    producer: Properties = {}

    @model_validator(mode="after")
    def _poll_outlasts_session(self) -> Kafka:
        if self.max_poll_interval_seconds < self.session_timeout_seconds:
            raise ValueError(
                "max_poll_interval_seconds must not be below session_timeout_seconds "
                f"({self.session_timeout_seconds:g})"
            )
        return self


class Database(_Section):
    url: SecretStr = SecretStr("postgresql://localhost/postgres")
    statement_timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    idle_in_transaction_timeout_seconds: Annotated[float, Field(gt=0, le=10)] = 10.0
    connect_timeout_seconds: Annotated[float, Field(ge=1)] = 5.0


class Settings(BaseSettings):
    """All settings with their defaults; :func:`load` reads them."""

    model_config = SettingsConfigDict(
        env_prefix="PROCESSOR_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        toml_file=CONFIGURATION_FILE,
    )

    kafka: Kafka = Kafka()
    database: Database = Database()
    group_id: str | None = None
    """The consumer group; the pipeline's name unless set."""
    instance: Annotated[str, Field(min_length=1)] = Field(default_factory=socket.gethostname)
    """Stable across restarts and different on each machine (the pod's name, for example)."""
    start_from: str = "earliest"
    """``earliest``, ``latest`` or a time in ISO 8601; for a group's first start only."""
    batch_max_messages: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    batch_max_bytes: Annotated[int, Field(ge=1)] = 8_000_000
    batch_max_output_bytes: Annotated[int, Field(ge=1)] = 16_000_000
    batch_max_seconds: Annotated[float, Field(gt=0, le=60)] = 0.5
    """Handlers that take long get fewer messages a batch."""
    batch_overlap_min_messages: Annotated[int, Field(ge=1)] = 200
    """A batch of so many takes effect while the handlers of the next one run.

    More than ``batch_max_messages``: never."""
    drain_timeout_seconds: Annotated[float, Field(gt=0)] = 20.0
    start_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long a start waits for Kafka and Postgres to answer."""
    stall_timeout_seconds: Annotated[float, Field(ge=5)] = 90.0
    """A worker whose loop stands still for longer is killed and started again."""
    call_timeout_seconds: Annotated[float, Field(ge=2)] = 30.0
    """A single call to Kafka or Postgres that hangs for longer ends the worker."""
    topic_check_seconds: Annotated[float, Field(gt=0)] = 5.0
    halt_recheck_seconds: Annotated[float, Field(gt=0)] = 3.0
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load(**overrides: Any) -> Settings:
    """Read the configuration file and the environment.

    :raises ConfigurationError: naming the setting and what is wrong with it.
    """
    path = Path(os.environ.get("PROCESSOR_CONFIG", CONFIGURATION_FILE))
    if "PROCESSOR_CONFIG" in os.environ and not path.is_file():
        raise ConfigurationError(f"PROCESSOR_CONFIG names {path}, which is not a file")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    _refuse_unknown_environment()
    try:
        return FromFile(**overrides)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigurationError(_told(error)) from None
    except SettingsError as error:
        raise ConfigurationError(f"{error}; a variable for a whole section holds JSON") from None
    except ValueError as error:
        raise ConfigurationError(f"{error}") from None


def _refuse_unknown_environment() -> None:
    """A misspelt variable would otherwise be ignored in silence."""
    known = {
        "PROCESSOR_CONFIG",
        "PROCESSOR_FAULTS",
        "PROCESSOR_FAULTS_FOLDER",
        "PROCESSOR_SUPERVISED",
        "PROCESSOR_TEST_DATABASE_URL",
        "PROCESSOR_TEST_KAFKA",
    }
    names = {f"PROCESSOR_{name.upper()}" for name in Settings.model_fields}
    for variable in os.environ:
        head = re.split("__", variable, maxsplit=1)[0].upper()
        if variable.startswith("PROCESSOR_") and variable not in known and head not in names:
            raise ConfigurationError(
                f"{variable} is no setting; see the list in docs/configuration.md"
            )


def _told(error: ValidationError) -> str:
    """One line: each setting and what is wrong with it."""
    told = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "is no setting; see the list in docs/configuration.md"
        told.append(f"{name}: {message}")
    return "; ".join(told)
