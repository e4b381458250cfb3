"""Parts of the engine, put together by hand."""

from __future__ import annotations

from processor.engine.clock import Clock
from processor.engine.flow_control import FlowControl
from processor.engine.observer import NullObserver
from processor.engine.steps import Steps
from processor.engine.watchdog import Watchdog


def free_steps() -> Steps:
    """Steps that no watchdog watches."""
    return Steps(Watchdog(), NullObserver())


def in_hand(max_messages: int, max_bytes: int, clock: Clock) -> FlowControl:
    """Of batches that have time enough."""
    return FlowControl(max_messages, max_bytes, 3_600.0, clock.now)
