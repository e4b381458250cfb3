"""What a run left behind in both stores, as plain values for the checker."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Input(NamedTuple):
    """A record of the input topic; ``number`` says which message it is."""

    partition: int
    offset: int
    number: int
    good: bool = True
    """Else it must become a dead letter, and nothing more."""
    told: Hashable = None
    """What each output of it carries beside the number: key, headers, timestamp."""
    letter: Hashable = None
    """What its dead letter carries."""


class Effect(NamedTuple):
    """A row in Postgres that one input message left."""

    partition: int
    offset: int
    number: int


class Letter(NamedTuple):
    """A dead letter."""

    partition: int
    offset: int
    content: Hashable = None


class Output(NamedTuple):
    """A committed record of an output topic, with the input that it says it comes from."""

    partition: int
    offset: int
    number: int
    place: Hashable = None
    """The output topic and partition that it stands in: order is known within one place only."""
    first: int | None = None
    """With ``next``: the batch that its provenance names."""
    next: int | None = None
    ordinal: int = 0
    total: int = 1
    content: Hashable = None
    """To be compared with the input's ``told``."""


class Manifest(NamedTuple):
    """A row of the outbox: it holds the outputs of [first, next)."""

    first: int
    next: int


class Sample(NamedTuple):
    """One partition at one time while the system runs: P was read first, then K, then the rest.

    ``next_offset`` (H), ``floor`` and ``outbox`` are of one snapshot of Postgres.
    """

    partition: int
    published: int
    """P"""
    committed: int | None
    """K, read stable; None where there is none."""
    next_offset: int
    """H"""
    floor: int | None = None
    """P again, in H's snapshot: the outbox is pruned below it, which K may not show yet."""
    intent: bool = False
    """Whether one was set at either reading of Postgres."""
    outbox: tuple[Manifest, ...] | None = None
    """In order; None where it was not read."""
    lineage: str = ""
    at: float = 0.0
    """Seconds, to find the moment again."""


@dataclass(slots=True)
class History:
    """Everything that the checks are about."""

    inputs: Sequence[Input] = ()
    effects: Sequence[Effect] = ()
    """In the order in which they took effect."""
    outputs: Sequence[Output] = ()
    """In the order in which they are read, within each place."""
    letters: Sequence[Letter] = ()
    samples: Sequence[Sample] = ()
    """Each partition's in the order in which they were taken."""
    ends: Mapping[int, int] = field(default_factory=dict)
    """Where each partition's log ends, once all is done; empty while it is not."""
