"""What has happened so far: told by the acts, shown by a display."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from demo.numbers import Numbers
from demo.pulse import Back, Rate, Recovery
from demo.workers import Worker

KEPT_EVENTS = 200

INTRODUCTION = (
    "Real Kafka, real Postgres: events come in, and workers are killed as they work.",
    "At the end each event is looked for in both stores: it must be there, once.",
)


class Act(Enum):
    """The parts of the demo, in order: a short name, and what is going on."""

    STACK = "stack", "starting Kafka and Postgres"
    TABLES = "tables", "creating tables and topics"
    WORKERS = "workers", "starting the processor and its workers"
    TRAFFIC = "kills", "events come in, workers are killed"
    CATCH_UP = "catch up", "processing what is left; no more events, no more kills"
    DRAIN = "drain", "draining (SIGTERM): the workers finish what they have in hand, and leave"
    VERDICT = "verdict", "looking for every event in both stores"

    def __init__(self, label: str, sentence: str) -> None:
        self.label = label
        self.sentence = sentence


class Mood(Enum):
    """How an event is to be taken."""

    BLOW = "blow"
    PAUSE = "pause"
    THAW = "thaw"
    RELIEF = "relief"
    NEWS = "news"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `moment` is of the monotonic clock."""

    moment: float
    clock: datetime
    mood: Mood
    text: str


class Listener(Protocol):
    """A display that tells things as they happen."""

    def act_began(self, story: Story) -> None: ...
    def happened(self, event: Event) -> None: ...
    def numbers_came(self, story: Story) -> None: ...


class Story:
    """The acts write it in one thread, a display may read it in another: under `lock`."""

    def __init__(self, killing_seconds: float) -> None:
        self.lock = threading.RLock()
        self.listener: Listener | None = None
        self.killing_seconds = killing_seconds
        self.began = time.monotonic()
        self.act = Act.STACK
        self.act_began = self.began
        self.finished = False
        self.detail = ""
        self.events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self.rate = Rate()
        self.numbers = Numbers()
        self.workers: Sequence[Worker] = ()
        self.frozen: frozenset[int] = frozenset()
        self.produced = 0
        self.kills = 0
        self._recovery = Recovery()

    @property
    def lag(self) -> int:
        """Events that Kafka has and Postgres does not have yet."""
        return max(0, self.produced - self.numbers.done)

    @property
    def recovering(self) -> frozenset[int]:
        """The slots of the workers that were struck and are not back yet."""
        return self._recovery.slots

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def act_elapsed(self) -> float:
        return time.monotonic() - self.act_began

    def enter(self, act: Act) -> None:
        """The next act begins."""
        with self.lock:
            self.act, self.act_began, self.detail = act, time.monotonic(), ""
        if self.listener:
            self.listener.act_began(self)

    def tell(self, mood: Mood, text: str) -> None:
        event = Event(time.monotonic(), datetime.now(), mood, text)
        with self.lock:
            self.events.append(event)
        if self.listener:
            self.listener.happened(event)

    def saw(self, produced: int, numbers: Numbers, workers: Sequence[Worker]) -> None:
        """A reading came in."""
        now = time.monotonic()
        with self.lock:
            self.produced, self.numbers, self.workers = produced, numbers, workers
            self.rate.add(now, numbers.done)
        if self.listener:
            self.listener.numbers_came(self)

    def struck(self, slot: int, numbers: Numbers, *, killed: bool) -> None:
        """A worker was killed, or may go on after a freeze; the numbers were read after that."""
        with self.lock:
            self._recovery.struck(slot, time.monotonic(), numbers, killed=killed)

    def look_for_recovery(self, republished: Mapping[int, int]) -> None:
        """Tells of each worker that has come back.

        :param republished: outputs sent by recovery since the blow, by slot.
        """
        with self.lock:
            found = self._recovery.back(time.monotonic(), self.numbers)
        for back in found:
            self.tell(Mood.RELIEF, _told(back, republished[back.slot]))


def _told(back: Back, rescued: int) -> str:
    text = f"worker {back.slot} is back after {back.seconds:.1f} s"
    if rescued:
        # Committed in Postgres by the one that was killed, and not yet in Kafka.
        return f"{text}; {rescued:,} outputs were sent from the outbox"
    return f"{text}, its {back.partitions} partitions move again"
