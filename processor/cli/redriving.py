"""A redrive as a command: topic and sender are there, progress is shown, the outcome is told."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from processor.cli.output import note, print_json
from processor.errors import ConfigurationError

if TYPE_CHECKING:
    from processor.operations.dead_letters import Plan, Redrive
    from processor.settings import Settings

LOOK_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Done:
    """What has become of the letters."""

    sent: int
    replayed: int
    failed: int
    """Again: they are dead letters as before, with their attempts."""
    waiting: int
    """No worker has come to them yet."""


def read_value(path: str) -> bytes:
    """:raises ConfigurationError: when it cannot be read."""
    try:
        value = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--edit {path}: {error.strerror}") from None
    if not value:
        raise ConfigurationError(f"--edit {path}: it is empty")
    return value


def replay(
    settings: Settings,
    redrive: Redrive,
    plan: Plan,
    rate: float,
    wait_seconds: float,
    value: bytes | None = None,
) -> Done:
    """Send the triggers, and watch the letters for as long as they move.

    :param value: what the one letter is handled with; kept only once Kafka has answered.
    """
    from processor.cli.produce import stop_on_signals
    from processor.cli.progress import sending_bar
    from processor.operations.dead_letters.topic import require_topic
    from processor.operations.sender import Sender

    if plan.ready or redrive.has_queues():
        require_topic(settings, redrive.topic)
    else:
        return Done(0, 0, 0, 0)
    if value is not None and plan.ready:
        redrive.edit(plan.ready[0], value)
    with stop_on_signals() as stop, sending_bar(len(plan.ready), "letters") as show:
        sender = Sender(settings, redrive.topic)
        sent = redrive.replay(plan.ready, sender, rate, show, stop.is_set)
        numbers = plan.ready[:sent]
        states, moved_at = redrive.states(numbers), time.monotonic()
        while (
            states.get("pending")
            and not stop.is_set()
            and time.monotonic() - moved_at < wait_seconds
        ):
            stop.wait(LOOK_SECONDS)
            now = redrive.states(numbers)
            if now != states:
                states, moved_at = now, time.monotonic()
            show(sent - states.get("pending", 0))
    return Done(sent, states.get("replayed", 0), states.get("failed", 0), states.get("pending", 0))


def discard(settings: Settings, redrive: Redrive, plan: Plan, reason: str | None) -> None:
    """Give the letters up, and let go on what is parked behind them."""
    from processor.operations.dead_letters.topic import require_topic
    from processor.operations.sender import Sender

    sender = None
    if redrive.has_queues():
        require_topic(settings, redrive.topic)
        sender = Sender(settings, redrive.topic)
    redrive.discard(plan.ready, sender, reason)


def tell(group: str, plan: Plan, done: Done, as_json: bool) -> None:
    """What was done, and what is to do."""
    from processor.cli.dead_letters import tell_refused

    if as_json:
        print_json({"group": group, **asdict(done), "refused": plan.refused})
        return
    parts = [f"{done.replayed:,} replayed"]
    parts += [f"{done.failed:,} failed again"] if done.failed else []
    parts += [f"{done.waiting:,} wait"] if done.waiting else []
    typer.echo(f"{group}: {' · '.join(parts)}")
    tell_refused(plan)
    if done.failed:
        note("what has failed again: processor dead-letters list --since 1m")
    if done.waiting:
        note("they are handled as soon as a worker of the pipeline runs; see processor status")
    if done.sent < len(plan.ready):
        note(f"stopped: {len(plan.ready) - done.sent:,} were not sent; repeat the command")
