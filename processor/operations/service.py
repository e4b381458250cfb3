"""``processor run``: looks before it leaps, then supervises the workers."""

from __future__ import annotations

import sys

import structlog

from processor.engine import faults
from processor.engine.assembly import start_position
from processor.engine.supervisor import Supervisor
from processor.errors import ConfigurationError, Exit
from processor.operations import logs
from processor.operations.broker import Broker
from processor.operations.database import session
from processor.operations.loading import load_pipeline
from processor.operations.topics import topics_of
from processor.pipeline import Pipeline
from processor.revisions import require_revision
from processor.settings import Settings


def run(reference: str, settings: Settings, workers: int) -> Exit:
    """Run a pipeline in ``workers`` processes until SIGTERM or SIGINT.

    :raises ConfigurationError: for a pipeline, a setting or a topic that is wrong or missing.
    :raises Unreachable: when Kafka or Postgres stays away.
    :raises SchemaMismatch: when the schema does not fit this version.
    """
    logs.configure(settings)
    log = structlog.get_logger()
    pipeline = load_pipeline(reference)
    start_position(settings.start_from)
    if faults.from_environment() is not None:
        log.warning(f"{faults.VARIABLE} is set: workers fail on purpose")
    look(pipeline, reference, settings, log.warning)
    log.info("starting", pipeline=reference, workers=workers, instance=settings.instance)
    supervisor = Supervisor(
        lambda slot: [sys.executable, "-m", "processor.operations.work", reference, slot],
        workers,
        settings.stall_timeout_seconds,
        settings.drain_timeout_seconds,
        lambda event, fields: log.info(event, **fields),
    )
    code = supervisor.run()
    log.info("stopped", code=int(code))
    return code


def look(pipeline: Pipeline, reference: str, settings: Settings, notify: object) -> None:
    """Find out before any worker starts what would keep all of them from working."""
    tell = notify if callable(notify) else print
    broker = Broker(settings)
    broker.wait(settings.start_timeout_seconds, tell)
    with session(settings, patience=settings.start_timeout_seconds, notify=tell) as connection:
        require_revision(connection)
    found = broker.topics(topics_of(pipeline))
    missing = sorted(name for name, topic in found.items() if topic is None)
    if missing:
        raise ConfigurationError(
            f"Kafka has no topic {', '.join(map(repr, missing))};"
            f" run: processor topics create {reference}"
        )
