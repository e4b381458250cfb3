"""The story as lines of text, where no terminal is: in CI, or piped into a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from demo.story import INTRODUCTION, Event, Story

NUMBERS_SECONDS = 3.0


class Lines:
    """What happens is told at once, the numbers every few seconds."""

    def __init__(self) -> None:
        self._due = 0.0

    def act_began(self, story: Story) -> None:
        self._say(f"{story.elapsed:5.1f} s  {story.act.sentence}")
        self._due = time.monotonic() + NUMBERS_SECONDS

    def happened(self, event: Event) -> None:
        self._say(f"{event.clock:%H:%M:%S}  {event.text}")

    def numbers_came(self, story: Story) -> None:
        now = time.monotonic()
        if now < self._due or not story.produced:
            return
        self._due = now + NUMBERS_SECONDS
        numbers = story.numbers
        self._say(
            f"{story.elapsed:5.1f} s  produced {story.produced:,} · in Postgres"
            f" {numbers.in_postgres:,} · outputs {numbers.outputs:,} · lag {story.lag:,}"
            f" · {story.rate.lately(now):,.0f}/s · {story.kills} kills"
        )

    def _say(self, line: str) -> None:
        print(line, flush=True)


@contextmanager
def lines(story: Story) -> Iterator[None]:
    """Tell it while the block runs."""
    for line in INTRODUCTION:
        print(line, flush=True)
    story.listener = Lines()
    yield
