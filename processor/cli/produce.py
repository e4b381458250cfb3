"""``processor produce``: send made-up events to a topic.

What it sends comes from a generator: a callable ``(users, types, seed)`` that returns an
iterator of (key, value) pairs, each bytes or None. It may have an attribute ``topic``, the
topic that its events belong to.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from processor.cli.options import Json
from processor.cli.output import print_json
from processor.cli.progress import sending_bar
from processor.errors import ConfigurationError

if TYPE_CHECKING:
    from processor.cli.sending import Record, Summary


def produce(
    generator: Annotated[
        str,
        typer.Argument(
            metavar="GENERATOR", help="module:attribute, as pipelines.user_events:sample_events"
        ),
    ],
    topic: Annotated[
        str | None, typer.Option(help="Where to.", show_default="the generator's topic")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Events per second; 0: as fast as possible.")
    ] = 1_000.0,
    count: Annotated[int, typer.Option(min=0, help="How many events; 0: until Ctrl-C.")] = 10_000,
    users: Annotated[int, typer.Option(min=1, help="How many users the events are of.")] = 1_000,
    types: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE=SHARE,…",
            help="As page_view=8,purchase=2.",
            show_default="the generator's own mix",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same events.")] = None,
    as_json: Json = False,
) -> None:
    """Send made-up events to a topic, from a generator of the pipeline."""
    from processor import settings
    from processor.cli.sending import Pace, require_topic, send
    from processor.operations.sender import Sender

    configured = settings.load()
    source, own_topic = open_generator(generator, users, shares(types), seed)
    target = topic or own_topic
    if target is None:
        raise ConfigurationError(f"{generator!r} names no topic of its own; add --topic")
    require_topic(configured, target)
    sender = Sender(configured, target)
    with stop_on_signals() as stop, sending_bar(count) as progress:
        summary = send(islice(source, count or None), sender, Pace(rate), stop, progress)
    if as_json:
        print_json(summary)
    else:
        typer.echo(told(summary))
    sender.raise_failure()


def shares(text: str | None) -> dict[str, float] | None:
    """The shares of the types, from ``page_view=8,purchase=2``; a type alone has the share 1.

    >>> shares("page_view=8,purchase")
    {'page_view': 8.0, 'purchase': 1.0}

    :raises ConfigurationError: naming the part that is not of this form.
    """
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        try:
            found[name] = float(share or 1)
        except ValueError:
            found[name] = -1
        if not name or not 0 <= found[name] < float("inf"):
            raise ConfigurationError(f"--types: {part!r} is not of the form type=share")
    return found


def open_generator(
    reference: str, users: int, types: Mapping[str, float] | None, seed: int | None
) -> tuple[Iterator[Record], str | None]:
    """Start the generator's stream; returns it and the generator's own topic.

    :raises ConfigurationError: when it cannot be imported or called; while it is read, when it
        fails or yields something else than pairs.
    """
    from processor.operations.loading import load_attribute

    generator: Any
    generator, _ = load_attribute(reference)
    if not callable(generator):
        raise ConfigurationError(f"{reference!r} is no generator: it cannot be called")
    try:
        stream = iter(generator(users=users, types=types, seed=seed))
    except Exception as error:
        raise ConfigurationError(f"{reference!r}: {error}") from error
    return _pairs(reference, stream), getattr(generator, "topic", None)


def _pairs(reference: str, stream: Iterator[Any]) -> Iterator[Record]:
    try:
        for key, value in stream:
            yield _as_bytes(key), _as_bytes(value)
    except Exception as error:
        raise ConfigurationError(f"{reference!r}: {type(error).__name__}: {error}") from error


def _as_bytes(part: Any) -> bytes | None:
    if part is None or isinstance(part, bytes):
        return part
    raise TypeError(f"it yields {type(part).__name__} where bytes or None must be")


def told(summary: Summary) -> str:
    """The summary in one line."""
    return (
        f"{'stopped: ' if summary.stopped else ''}{summary.produced:,} events to {summary.topic}"
        f" in {summary.seconds:.1f} s ({summary.rate:,.0f}/s):"
        f" {summary.delivered:,} delivered, {summary.failed + summary.unknown:,} not"
    )


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second has its usual effect."""
    stop = threading.Event()
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        stop.set()
        restore()

    for number in usual:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
