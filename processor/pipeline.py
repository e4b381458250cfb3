"""Pipelines: which handler takes which message.

>>> import msgspec
>>> class Ping(msgspec.Struct, tag_field="type", tag="ping"):
...     n: int
>>> pipeline = Pipeline("pings", outputs=["pongs"])
>>> @pipeline.handler("pings")
... def ping(event: Ping) -> None: ...
>>> handler, event = pipeline.routes["pings"].decode(b'{"type": "ping", "n": 1}')
>>> handler.name, event.n
('ping', 1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, TypeVar

from sqlalchemy import MetaData

from processor import codecs
from processor.binding import Handler, OnFailure, bind, bind_batch
from processor.dedup import (
    MAX_RETENTION_SECONDS,
    MIN_RETENTION_SECONDS,
    By,
    Dedup,
    bind_key,
)
from processor.errors import PipelineError
from processor.message import Topic
from processor.routing import Route, Unknown

F = TypeVar("F", bound=Callable[..., Any])
REPLAYS_SUFFIX = ".replays"
"""Of the topic that has dead letters handled again."""
Isolation = Literal["read committed", "repeatable read", "serializable"]


class Pipeline:
    """Handlers by topic and type, and what they may write to.

    :param name: also the consumer group, unless ``group_id`` is configured.
    :param outputs: the topics that handlers may produce to; others halt the partition.
    :param tables: the SQLAlchemy metadata of the tables that handlers write; ``processor check``
        compares it with the database.
    :param unknown: what becomes of a message whose type no handler takes.
    :param isolation: the isolation level of the Postgres transaction.
    :param max_dead_letter_ratio: of a partition's last 200 messages; where more would be
        dead-lettered it halts instead, because then it is the deployment that is bad. 1: never.
    :param dead_letter_topic: dead letters are also produced to this topic, in the same transaction,
        with what went wrong in their headers.
    :param dedup_retention: for how long a key is remembered at least, half as long again at most;
        of all handlers with ``dedup``. From a second to ten years.
    """

    def __init__(
        self,
        name: str,
        *,
        outputs: Sequence[str | Topic] = (),
        tables: MetaData | None = None,
        unknown: Unknown = "dead-letter",
        isolation: Isolation = "read committed",
        max_dead_letter_ratio: float = 0.5,
        dead_letter_topic: str | None = None,
        dedup_retention: timedelta = timedelta(days=7),
    ) -> None:
        if not name:
            raise PipelineError("a pipeline needs a name")
        if not 0 <= max_dead_letter_ratio <= 1:
            raise PipelineError(
                f"max_dead_letter_ratio is {max_dead_letter_ratio!r}; it must lie between 0 and 1"
            )
        if not isinstance(dedup_retention, timedelta):
            raise PipelineError(f"dedup_retention is {dedup_retention!r}; give a timedelta")
        retention_seconds = dedup_retention.total_seconds()
        if not MIN_RETENTION_SECONDS <= retention_seconds <= MAX_RETENTION_SECONDS:
            raise PipelineError(
                f"dedup_retention is {dedup_retention}; it must lie between a second and ten years"
            )
        self.dedup_retention = dedup_retention
        self.max_dead_letter_ratio = max_dead_letter_ratio
        self.name = name
        self.outputs = {topic.name: topic for topic in map(Topic.of, outputs)}
        self.dead_letter_topic = dead_letter_topic
        if dead_letter_topic is not None:
            self.outputs.setdefault(dead_letter_topic, Topic(dead_letter_topic, codecs.raw))
        self.tables = tables
        self.isolation = isolation
        self.routes: dict[str, Route] = {}
        self.reference: str | None = None
        """As what it was loaded, ``module:attribute``."""
        self._unknown: Unknown = unknown

    def handler(
        self,
        topic: str | Topic,
        *,
        max_attempts: int = 3,
        on_failure: OnFailure = "dead-letter",
        dedup: By | Dedup | None = None,
    ) -> Callable[[F], F]:
        """Register a function for the messages of a topic that have its event's type.

        Its parameters are bound by annotation: the decoded event, :class:`Message`,
        :class:`Transaction`, in any order, each at most once.

        :param max_attempts: how often a message is tried before it is given up.
        :param on_failure: what becomes of one that is given up: ``dead-letter``, ``skip`` (only
            counted), or ``halt``, which stops its partition in front of it.
        :param dedup: what a message has in common with its duplicates: the name of a field,
            ``Header("name")``, or a function of the event. Of messages of one key only the first
            takes effect, whichever partition they come on. ``Dedup(…, scope="…")`` shares keys.
        :raises PipelineError: for a signature that cannot be bound, or a type taken twice.
        """

        def register(function: F) -> F:
            self._add(topic, bind(function, max_attempts, on_failure), dedup)
            return function

        return register

    def batch_handler(
        self,
        topic: str | Topic,
        *,
        max_attempts: int = 3,
        on_failure: OnFailure = "dead-letter",
        dedup: By | Dedup | None = None,
    ) -> Callable[[F], F]:
        """Register a function that gets one partition's messages together, in offset order.

        Its parameters are ``Sequence[Message[T]]`` and, if wanted, :class:`Transaction`.
        """

        def register(function: F) -> F:
            self._add(topic, bind_batch(function, max_attempts, on_failure), dedup)
            return function

        return register

    @property
    def has_keys(self) -> bool:
        """Whether any handler has ``dedup``."""
        return any(handler.key is not None for handler in self.handlers)

    @property
    def handlers(self) -> list[Handler]:
        """All handlers, in the order of their registration by topic."""
        return [handler for route in self.routes.values() for handler in route.handlers]

    def validate(self) -> None:
        """:raises PipelineError: when there is no handler at all."""
        if not self.routes:
            raise PipelineError(f"pipeline {self.name!r} has no handler; add @pipeline.handler")
        for topic in (*self.routes, *self.outputs):
            if topic.endswith(REPLAYS_SUFFIX):
                raise PipelineError(
                    f"topic {topic!r}: names that end in {REPLAYS_SUFFIX!r} are the engine's own"
                )
        if self.dead_letter_topic in self.routes:
            raise PipelineError(
                f"dead_letter_topic {self.dead_letter_topic!r} has a handler here: a dead letter"
                " would come back for ever; read it in another pipeline"
            )

    def _add(self, topic: str | Topic, handler: Handler, dedup: By | Dedup | None) -> None:
        route = self._route(topic)
        if dedup is not None:
            key = bind_key(dedup, f"{route.topic.name}/{handler.name}", handler.kinds)
            needs_message = handler.needs_message or key.wants == "message"
            handler = replace(handler, key=key, needs_message=needs_message)
        route.add(handler)

    def _route(self, topic: str | Topic) -> Route:
        declared = Topic.of(topic)
        route = self.routes.get(declared.name)
        if route is None:
            route = self.routes[declared.name] = Route(declared, self._unknown)
        elif isinstance(topic, Topic) and topic.codec is not route.topic.codec:
            raise PipelineError(f"topic {declared.name!r} is declared with two codecs")
        return route
