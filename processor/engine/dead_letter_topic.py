"""The record of a dead letter on the pipeline's dead-letter topic: an output like any other.

Key, value and headers are the message's own. What went wrong is told in headers under
``processor.errors.``, with the suffixes that Kafka Streams gives its own (KIP-1034).
"""

from __future__ import annotations

from collections.abc import Iterator

from processor.engine.batch import DeadLetter, Record
from processor.engine.outbox import PROVENANCE_HEADER
from processor.engine.sealing import Sealer
from processor.errors import OutputTooLarge, PipelineError
from processor.message import Headers, Output

PREFIX = "processor.errors."
OMITTED = f"{PREFIX}omitted"
CUT_CHARACTERS = 500
"""Of each text, where the whole would be too large."""


class DeadLetterTopic:
    """Makes records that the topic takes, however large the message is."""

    def __init__(self, name: str, sealer: Sealer) -> None:
        self._name = name
        self._sealer = sealer

    def record(self, letter: DeadLetter, offset: int) -> tuple[Record, int]:
        """The sealed record, and how many bytes it has.

        What the topic does not take is left out: texts are cut first, then the value goes, then the
        message's headers. The row in Postgres has all of it.

        :param offset: of the message that the record is an output of.
        :raises PipelineError: where the topic takes no such record at all.
        """
        refused: Exception | None = None
        for when in (letter.timestamp, None):
            for output in self._attempts(letter):
                try:
                    return self._sealer.seal(output, offset, when)
                except OutputTooLarge as error:
                    refused = error
                except ValueError as error:
                    refused = error
                    break
        raise PipelineError(f"dead-letter topic {self._name!r}: {refused}")

    def _attempts(self, letter: DeadLetter) -> Iterator[Output]:
        own = [each for each in letter.headers if each[0] != PROVENANCE_HEADER]
        cut = list(_told(letter, CUT_CHARACTERS))
        yield self._output(letter, [*own, *_told(letter)], letter.value)
        yield self._output(letter, [*own, *cut], letter.value)
        yield self._output(letter, [*own, *cut, (OMITTED, b"value")], b"")
        yield self._output(letter, [*cut, (OMITTED, b"value, headers")], b"")

    def _output(self, letter: DeadLetter, headers: Headers, value: bytes | None) -> Output:
        return Output(self._name, key=letter.key, value=value, headers=headers)


def _told(letter: DeadLetter, most: int | None = None) -> Iterator[tuple[str, bytes]]:
    told = {
        "topic": letter.partition.topic,
        "partition": letter.partition.number,
        "offset": letter.offset,
        "exception": letter.error,
        "message": letter.reason,
        "stacktrace": letter.trace or "",
        "handler": letter.handler or "",
        "attempts": letter.attempts,
        "fingerprint": letter.fingerprint,
    }
    for name, value in told.items():
        yield PREFIX + name, str(value)[:most].encode("utf-8", "backslashreplace")
