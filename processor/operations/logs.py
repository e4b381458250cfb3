"""Log lines: one at most for a batch, a sentence for a recovery or a halt; no payloads."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from typing import Any

import structlog

from processor.engine.batch import Partition
from processor.engine.recovery import MoveStart, Republish, Supersede
from processor.engine.register import Report
from processor.engine.steps import Step
from processor.settings import Settings

MAX_NAMED = 6
WORTH_A_LINE = (Republish, Supersede, MoveStart)
"""Decisions of recovery that an operator wants to see; a halt has a line of its own."""


def configure(settings: Settings) -> None:
    """Lines go to standard error, for people or as JSON."""
    level = getattr(logging, settings.log_level.upper())
    renderer: Any = structlog.processors.JSONRenderer()
    if settings.log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # psycopg warns of connections that it leaves in the middle; the engine tells of those itself.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)


class LogObserver:
    """Writes what the engine reports."""

    def __init__(self, slot: int) -> None:
        self._log = structlog.get_logger().bind(slot=slot)

    def step_took(self, step: Step, seconds: float) -> None:
        """Too many for a log."""

    def committed(
        self,
        partitions: int,
        handled: int,
        outputs: int,
        dead_letters: int,
        duplicates: int,
        seconds: float,
    ) -> None:
        self._log.debug(
            "batch",
            partitions=partitions,
            handled=handled,
            outputs=outputs,
            dead_letters=dead_letters,
            duplicates=duplicates,
            milliseconds=round(seconds * 1_000, 1),
        )

    def doubted(self, reason: str, partitions: Collection[Partition]) -> None:
        self._log.warning(
            "in doubt; recovery reads back what stands",
            reason=reason,
            partitions=named(partitions),
        )

    def decided(self, partition: Partition, decision: object) -> None:
        tell = self._log.info if isinstance(decision, WORTH_A_LINE) else self._log.debug
        tell("recovery", partition=str(partition), decision=str(decision))

    def entered(self, report: Report) -> None:
        if report.state == "halted":
            self._log.error(
                f"{report.partition} halts: {report.detail}; to resolve it: {report.remedy}",
                reason=report.reason,
            )
        elif report.state in ("waiting", "backing-off"):
            self._log.warning(
                f"{report.partition} is {report.state}: {report.detail}", reason=report.reason
            )
        else:
            self._log.debug("partition", partition=str(report.partition), state=report.state)

    def assigned(self, partitions: Collection[Partition]) -> None:
        self._log.info("assigned", partitions=named(partitions))

    def noted(self, event: str, **fields: object) -> None:
        self._log.info(event, **fields)


def named(partitions: Collection[Partition]) -> str:
    """A few names and how many more."""
    names = [str(partition) for partition in sorted(partitions)]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more if names else "none"
