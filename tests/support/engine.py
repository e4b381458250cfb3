"""Parts of the engine, put together by hand."""

from __future__ import annotations

from processor.engine.observer import NullObserver
from processor.engine.steps import Steps
from processor.engine.watchdog import Watchdog


def free_steps() -> Steps:
    """Steps that no watchdog watches."""
    return Steps(Watchdog(), NullObserver())
