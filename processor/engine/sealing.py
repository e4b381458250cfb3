"""Outputs become records: encoded, checked against what their topic takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import time
from typing import Any

from processor.engine.batch import Record
from processor.errors import OutputTooLarge, PipelineError
from processor.message import Output, Topic

RECORD_OVERHEAD_BYTES = 96
"""Of a record and its batch, beside key, value and headers."""
PROVENANCE_BYTES = 160
"""At most what the ``processor-source`` header adds."""


class Sealer:
    """Encodes outputs by their topics' codecs.

    :param topics: the topics that the pipeline declares.
    :param max_bytes: what each topic takes (``max.message.bytes``), uncompressed.
    """

    def __init__(self, topics: Mapping[str, Topic], max_bytes: Mapping[str, int]) -> None:
        self._topics = topics
        self._max_bytes = max_bytes

    def seal(self, output: Any, offset: int | None, timestamp: int | None) -> Record:
        """One output as the bytes that will be produced.

        :raises PipelineError: for an undeclared topic, or something that is no output.
        :raises OutputTooLarge: when its topic would refuse it.
        """
        if not isinstance(output, Output):
            raise PipelineError(f"a handler yielded {type(output).__name__}, not an Output")
        topic = self._topics.get(output.topic)
        if topic is None:
            raise PipelineError(
                f"topic {output.topic!r} is not declared; add it to the pipeline's outputs"
            )
        value = output.value
        if value is not None and not isinstance(value, bytes):
            value = topic.codec.encode(value)
        key = output.key.encode() if isinstance(output.key, str) else output.key
        headers = tuple(
            (name, content.encode() if isinstance(content, str) else content)
            for name, content in output.headers
        )
        self._check_size(output.topic, key, value, headers)
        when = output.timestamp if output.timestamp is not None else timestamp
        if when is None:
            when = int(time() * 1_000)
        return Record(output.topic, key, value, headers, when, output.partition, offset)

    def seal_all(self, outputs: Iterable[Any], offset: int | None, timestamp: int | None) -> Any:
        return [self.seal(output, offset, timestamp) for output in outputs]

    def _check_size(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...],
    ) -> None:
        size = size_of(key, value, headers) + RECORD_OVERHEAD_BYTES + PROVENANCE_BYTES
        limit = self._max_bytes.get(topic)
        if limit is not None and size > limit:
            raise OutputTooLarge(f"an output of {size} bytes; {topic!r} takes {limit}")


def size_of(
    key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
) -> int:
    size = len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name) + len(content or b"") + 8
    return size
