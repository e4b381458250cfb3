"""Sealing: outputs become exact bytes, an entry of the outbox, and records with provenance.

The payload is MessagePack behind one byte that names its format, so that a newer worker reads
what an older one left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import msgspec

from processor.engine.batch import OutboxEntry, Record, Source

FORMAT = 1
PROVENANCE_HEADER = "processor-source"


class OutboxDamaged(Exception):
    """A payload does not have the count or the checksum that it was stored with."""


class _Payload(msgspec.Struct, array_like=True):
    topic_id: str
    partition: int
    lineage: str
    records: list[Record]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Payload).decode


def seal(progress_id: int, source: Source, records: Sequence[Record]) -> OutboxEntry:
    """An entry whose payload holds the outputs byte for byte."""
    body = _Payload(source.topic_id, source.partition, source.lineage, list(records))
    payload = bytes((FORMAT,)) + _encode(body)
    return OutboxEntry(progress_id, source, records, payload, crc32(payload))


def decode_entry(
    progress_id: int, first: int, next_offset: int, count: int, checksum: int, payload: bytes
) -> OutboxEntry:
    """The entry as it was sealed.

    :raises OutboxDamaged: naming what does not agree.
    """
    if crc32(payload) != checksum:
        raise OutboxDamaged(f"checksum of [{first}, {next_offset}) is wrong")
    if payload[:1] != bytes((FORMAT,)):
        found = payload[0] if payload else "none"
        raise OutboxDamaged(f"[{first}, {next_offset}) has the unknown format {found}")
    try:
        body = _decode(memoryview(payload)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OutboxDamaged(f"[{first}, {next_offset}) cannot be read: {error}") from None
    if len(body.records) != count:
        raise OutboxDamaged(
            f"[{first}, {next_offset}) holds {len(body.records)} outputs instead of {count}"
        )
    source = Source(body.topic_id, body.partition, body.lineage, first, next_offset)
    return OutboxEntry(progress_id, source, body.records, payload, checksum)


def provenance(entry: OutboxEntry) -> Iterator[tuple[Record, bytes]]:
    """Each record with the value of its ``processor-source`` header.

    ``topic id;partition;first;next;ordinal;count;lineage;source offset``: the ordinal counts from
    0 within the entry; the source offset is empty after a batch handler.
    """
    source, count = entry.source, len(entry.records)
    head = f"{source.topic_id};{source.partition};{source.first};{source.next};"
    tail = f";{count};{source.lineage};"
    for ordinal, record in enumerate(entry.records):
        offset = "" if record.source_offset is None else record.source_offset
        yield record, f"{head}{ordinal}{tail}{offset}".encode()


class Provenance(msgspec.Struct, frozen=True):
    """A ``processor-source`` header, read back."""

    topic_id: str
    partition: int
    first: int
    next: int
    ordinal: int
    count: int
    lineage: str
    source_offset: int | None


def read_provenance(header: bytes) -> Provenance:
    """:raises ValueError: when the header is not of our form."""
    parts = header.decode().split(";")
    if len(parts) != 8:
        raise ValueError(f"not a provenance header: {header!r}")
    topic_id, lineage, offset = parts[0], parts[6], parts[7]
    partition, first, next_offset, ordinal, count = map(int, parts[1:6])
    source_offset = int(offset) if offset else None
    return Provenance(
        topic_id, partition, first, next_offset, ordinal, count, lineage, source_offset
    )
