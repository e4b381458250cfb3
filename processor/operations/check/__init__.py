"""``processor check``: everything that must fit before a pipeline may run.

Each room gathers facts with I/O and judges them without.
"""

from __future__ import annotations

from collections.abc import Iterator

from processor.engine.assembly import start_position
from processor.errors import ConfigurationError, ProcessorError
from processor.operations.broker import Broker
from processor.operations.check import kafka, postgres, tables
from processor.operations.check.finding import Area, Finding, Level, worst
from processor.operations.database import Notify, session, silent
from processor.pipeline import Pipeline
from processor.settings import Settings

configuration = Area("configuration")

__all__ = ["Finding", "Level", "check", "worst"]


def check(settings: Settings, pipeline: Pipeline, notify: Notify = silent) -> list[Finding]:
    """Look at the configuration, the cluster and the database; what is away is a finding."""
    group = settings.group_id or pipeline.name
    return [
        *check_configuration(settings, pipeline, group),
        *_guarded(kafka.kafka, check_kafka(settings, pipeline, group, notify)),
        *_guarded(postgres.postgres, check_postgres(settings, pipeline, notify)),
    ]


def check_configuration(settings: Settings, pipeline: Pipeline, group: str) -> Iterator[Finding]:
    handlers = len(pipeline.handlers)
    yield configuration.ok(f"pipeline {pipeline.name}: {handlers} handler(s), group {group}")
    try:
        start_position(settings.start_from)
    except ConfigurationError as error:
        yield configuration.failed(error)
    if pipeline.tables is None:
        yield configuration.warning(
            "the pipeline declares no tables, so they cannot be compared",
            "Pipeline(..., tables=metadata)",
        )


def check_kafka(
    settings: Settings, pipeline: Pipeline, group: str, notify: Notify
) -> Iterator[Finding]:
    broker = Broker(settings)
    broker.wait(notify=notify)
    yield from kafka.judge(kafka.gather(broker, pipeline, group), settings, pipeline, group)


def check_postgres(settings: Settings, pipeline: Pipeline, notify: Notify) -> Iterator[Finding]:
    with session(settings, notify=notify) as connection:
        yield from postgres.judge(postgres.gather(connection), makes_tables=pipeline.has_keys)
        if pipeline.tables is not None:
            found = tables.gather(connection, pipeline.tables)
            yield from tables.judge(pipeline.tables, found)


def _guarded(area: Area, findings: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from findings
    except ProcessorError as error:
        yield area.failed(error)
