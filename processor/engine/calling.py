"""Handlers are called here, and what they return is sealed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from processor.engine.admission import Admission
from processor.engine.batch import Handled
from processor.engine.messages import Decoded, as_outputs, timestamp_of
from processor.engine.sealing import Sealer
from processor.message import Output
from processor.transaction import Transaction


class Calling:
    """One call, and its outputs; the fast path has its own loop around :meth:`keep`."""

    def __init__(self, sealer: Sealer, admission: Admission) -> None:
        self._sealer = sealer
        self._admission = admission

    def call(self, decoded: Decoded, handled: Handled, tx: Transaction) -> None:
        """Run one message's handler and seal its outputs."""
        handler = decoded.handler
        if handler.batch:
            assert decoded.message is not None, "batch handlers take messages"
            result = handler.call_batch([decoded.message], tx)
        else:
            result = handler.call(decoded.event, decoded.message, tx)
        handled.handled += 1
        self._admission.done(decoded, handled)
        if result is not None:
            self.keep(result, decoded.raw, handled)

    def keep(self, result: Any, raw: Any, handled: Handled) -> None:
        """Seal what a handler has returned for a message."""
        if isinstance(result, Output):
            record, size = self._sealer.seal(result, raw.offset(), timestamp_of(raw))
            handled.records.append(record)
            handled.output_bytes += size
        else:
            self._seal(as_outputs(result), handled, raw.offset(), timestamp_of(raw))

    def call_batch(self, decoded: Sequence[Decoded], handled: Handled, tx: Transaction) -> None:
        messages = [each.message for each in decoded if each.message is not None]
        result = decoded[0].handler.call_batch(messages, tx)
        handled.handled += len(messages)
        if result is not None:
            self._seal(as_outputs(result), handled, None, messages[-1].timestamp)

    def _seal(
        self, outputs: Iterable[Any], handled: Handled, offset: int | None, timestamp: int | None
    ) -> None:
        seal, keep = self._sealer.seal, handled.records.append
        for output in outputs:
            record, size = seal(output, offset, timestamp)
            keep(record)
            handled.output_bytes += size
