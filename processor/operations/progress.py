"""What somebody who waits is told while something long goes on."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told what is done, and how far it is, in offsets."""

    def stage(self, what: str, offsets: int) -> None:
        """The next stage begins; the one before is over."""

    def moved(self, offsets: int) -> None:
        """So many more of the stage's offsets."""


class Silent:
    """Tells nobody."""

    def stage(self, what: str, offsets: int) -> None: ...

    def moved(self, offsets: int) -> None: ...


SILENT = Silent()
