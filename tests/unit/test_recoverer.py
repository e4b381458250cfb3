"""What recovery says while it can read nothing; its decisions are in ``test_recovery.py``."""

from __future__ import annotations

from typing import Any

import pytest

from processor.engine.batch import Partition
from processor.engine.cluster import UNSTABLE, TopicFacts
from processor.engine.observer import NullObserver
from processor.engine.partitions import Owned, Partitions, State
from processor.engine.recoverer import FORGOTTEN_REMEDY, Recoverer
from tests.support.clocks import ManualClock

PARTITION = Partition("input", 0)


class Silent:
    """A cluster that never tells K; publisher and consumer, of which nothing is asked."""

    snapshot = None

    def __init__(self, why: str) -> None:
        self._why = why

    def topics(self, names: set[str]) -> dict[str, TopicFacts]:
        return {name: TopicFacts("id", 1) for name in names}

    def committed(self, partitions: list[Partition]) -> dict[Partition, str]:
        return dict.fromkeys(partitions, self._why)

    def prepare(self) -> None: ...

    def start(self, positions: dict[Partition, object]) -> None:
        assert not positions, "nothing is known to start from"


def after(seconds: float, why: str) -> Owned:
    """The partition, when recovery has been asking for that long."""
    clock, partitions, unused = ManualClock(), Partitions(), None
    partitions.replace([PARTITION])
    silent: Any = Silent(why)
    recoverer = Recoverer(
        silent,
        unused,  # type: ignore[arg-type]
        silent,
        silent,
        partitions,
        NullObserver(),
        clock,
        lambda _: "earliest",
        5.0,
    )
    end = clock.now() + seconds
    while clock.now() <= end:
        recoverer.run(partitions.due(clock.now(), State.RECOVERING, State.WAITING))
        clock.sleep(0.1)
    return partitions[PARTITION]


@pytest.mark.parametrize(
    ("seconds", "why", "state", "reason"),
    [
        (4, f"{UNSTABLE}: x", State.RECOVERING, None),
        (7, f"{UNSTABLE}: x", State.WAITING, "waiting"),
        (44, f"{UNSTABLE}: x", State.WAITING, "waiting"),
        (48, f"{UNSTABLE}: x", State.WAITING, "offset-unstable"),
        (48, "not known yet: the coordinator is loading", State.WAITING, "waiting"),
    ],
)
def test_waiting_says_why_and_what_helps(
    seconds: float, why: str, state: State, reason: str | None
) -> None:
    owned = after(seconds, why)
    assert (owned.state, owned.reason) == (state, reason)
    assert (owned.detail or why) == why
    remedy = FORGOTTEN_REMEDY if reason == "offset-unstable" else None
    assert owned.remedy == remedy
