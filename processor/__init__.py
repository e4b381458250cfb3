"""Exactly-once from Kafka into Postgres and Kafka.

::

    pipeline = Pipeline("user-events", outputs=["purchase-receipts"])

    @pipeline.handler("user-events")
    def purchased(event: Purchase, message: Message, tx: Transaction) -> Iterator[Output]:
        tx.insert(purchases, {"user_id": event.user_id, "amount": event.amount})
        yield Output("purchase-receipts", key=message.key, value=Receipt(event.amount))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from processor.dedup import Dedup, Header
    from processor.errors import Halt, ProcessorError, Reject, Retry
    from processor.message import Message, Output, Topic
    from processor.pipeline import Pipeline
    from processor.transaction import Transaction

__all__ = [
    "Dedup",
    "Halt",
    "Header",
    "Message",
    "Output",
    "Pipeline",
    "ProcessorError",
    "Reject",
    "Retry",
    "Topic",
    "Transaction",
]

__version__ = "0.1.0"

_ROOMS = {
    "Dedup": "dedup",
    "Halt": "errors",
    "Header": "dedup",
    "Message": "message",
    "Output": "message",
    "Pipeline": "pipeline",
    "ProcessorError": "errors",
    "Reject": "errors",
    "Retry": "errors",
    "Topic": "message",
    "Transaction": "transaction",
}


def __getattr__(name: str) -> Any:
    """Imported when first used: ``processor --help`` needs neither SQLAlchemy nor msgspec."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
