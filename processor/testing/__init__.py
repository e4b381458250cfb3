"""For tests of pipelines: the real engine over Kafka and Postgres in memory (docs/testing.md).

::

    with PipelineTest(pipeline) as test:
        test.send("events", Purchase(user_id=1, amount=9.5), key="1")
        assert test.rows(purchases) == [{"user_id": 1, "amount": 9.5}]
        assert [each.json() for each in test.outputs("receipts")] == [{"paid": 9.5}]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from processor.engine.steps import Step
    from processor.testing.crashes import BATCH_STEPS, EDGES
    from processor.testing.pipeline_test import PipelineTest
    from processor.testing.results import DeadLetter, Halted, OutputRecord, PipelineTestError, Sent

__all__ = [
    "BATCH_STEPS",
    "EDGES",
    "DeadLetter",
    "Halted",
    "OutputRecord",
    "PipelineTest",
    "PipelineTestError",
    "Sent",
    "Step",
]

_ROOMS = {
    "BATCH_STEPS": "processor.testing.crashes",
    "EDGES": "processor.testing.crashes",
    "DeadLetter": "processor.testing.results",
    "Halted": "processor.testing.results",
    "OutputRecord": "processor.testing.results",
    "PipelineTest": "processor.testing.pipeline_test",
    "PipelineTestError": "processor.testing.results",
    "Sent": "processor.testing.results",
    "Step": "processor.engine.steps",
}


def __getattr__(name: str) -> Any:
    """Imported when first used: the plugin of pytest is loaded in runs that use none of it."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_ROOMS[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        raise ModuleNotFoundError(
            "tests in memory need greenlet: pip install 'processor[testing]'", name=error.name
        ) from None
