"""Exactly-once from Kafka into Postgres and Kafka.

::

    pipeline = Pipeline("user-events", outputs=["purchase-receipts"])

    @pipeline.handler("user-events")
    def purchased(event: Purchase, message: Message, tx: Transaction) -> Iterator[Output]:
        tx.insert(purchases, {"user_id": event.user_id, "amount": event.amount})
        yield Output("purchase-receipts", key=message.key, value=Receipt(event.amount))
"""

from processor.errors import Halt, ProcessorError, Reject, Retry
from processor.message import Message, Output, Topic
from processor.pipeline import Pipeline
from processor.transaction import Transaction

__all__ = [
    "Halt",
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
