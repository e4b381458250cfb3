"""Sealed outputs are read back byte for byte, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processor.engine.batch import OutboxEntry, Record, Source
from processor.engine.outbox import (
    FORMAT,
    OutboxDamaged,
    decode_entry,
    provenance,
    read_provenance,
    seal,
)
from processor.engine.sealing import PROVENANCE_BYTES

SOURCE = Source("AAAAAAAAAAAAAAAAAAAAAQ", 3, "lineage", 10, 20)

some_bytes = st.none() | st.binary(max_size=40)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
records = st.builds(
    Record,
    topic=names,
    key=some_bytes,
    value=some_bytes,
    headers=st.lists(st.tuples(names, some_bytes), max_size=3).map(tuple),
    timestamp=st.integers(-(2**63), 2**63 - 1),
    partition=st.none() | st.integers(0, 2**31 - 1),
    source_offset=st.none() | st.integers(0, 2**63 - 1),
)


def plain(entries: Sequence[Record]) -> list[Any]:
    """Records whose headers compare alike, whatever sequence holds them."""
    return [record._replace(headers=[tuple(pair) for pair in record.headers]) for record in entries]


def read_back(entry: OutboxEntry, **changes: Any) -> OutboxEntry:
    stored: dict[str, Any] = {
        "progress_id": entry.progress_id,
        "first": entry.first,
        "next_offset": entry.next,
        "count": len(entry.records),
        "checksum": entry.checksum,
        "payload": entry.payload,
    }
    return decode_entry(**(stored | changes))


def resealed(payload: bytes) -> dict[str, Any]:
    """A payload that was stored like this: its checksum is right."""
    return {"payload": payload, "checksum": crc32(payload)}


RECORDS = [
    Record("out", b"k", b"v", (("h", b"\x00\xff"), ("h", None)), 5, None, 10),
    Record("out", None, None, (), -1, 2, None),
]
ENTRY = seal(7, SOURCE, RECORDS)


@given(st.lists(records, max_size=4))
def test_what_is_sealed_is_read_back(outputs: list[Record]) -> None:
    entry = seal(7, SOURCE, outputs)
    found = read_back(entry)
    assert plain(found.records) == plain(outputs)
    assert (found.progress_id, found.source) == (7, SOURCE)
    assert found.payload == entry.payload


@given(st.lists(records, max_size=4))
def test_sealing_what_was_read_back_makes_the_same_bytes(outputs: list[Record]) -> None:
    entry = seal(7, SOURCE, outputs)
    assert seal(7, SOURCE, read_back(entry).records).payload == entry.payload


def test_empty_and_missing_are_different_things() -> None:
    outputs = [
        Record("out", b"", b"", (("", b""),), 0, None, 1),
        Record("out", None, None, (), 0, None, 2),
    ]
    first, second = read_back(seal(7, SOURCE, outputs)).records
    assert (first.key, first.value, list(first.headers)) == (b"", b"", [("", b"")])
    assert (second.key, second.value, list(second.headers)) == (None, None, [])


@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ENTRY.payload) - 1))
    payload = bytearray(ENTRY.payload)
    payload[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(OutboxDamaged, match=r"checksum of \[10, 20\)"):
        read_back(ENTRY, payload=bytes(payload))


@given(st.integers(0, len(ENTRY.payload) - 1))
def test_a_cut_payload_is_found(length: int) -> None:
    with pytest.raises(OutboxDamaged, match="checksum"):
        read_back(ENTRY, payload=ENTRY.payload[:length])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_count_is_found(count: int) -> None:
    with pytest.raises(OutboxDamaged, match=f"holds 2 outputs instead of {count}"):
        read_back(ENTRY, count=count)


def test_an_unknown_format_is_named() -> None:
    payload = bytes((FORMAT + 1,)) + ENTRY.payload[1:]
    with pytest.raises(OutboxDamaged, match=f"unknown format {FORMAT + 1}"):
        read_back(ENTRY, **resealed(payload))


@given(st.binary(max_size=60))
@example(b"\x94\xa1\x80\x00\xa0\x90")  # text that is not UTF-8
def test_bytes_of_another_kind_are_damage_and_nothing_else(body: bytes) -> None:
    with pytest.raises(OutboxDamaged):
        read_back(ENTRY, count=-1, **resealed(bytes((FORMAT,)) + body))


def test_an_empty_payload_is_damage() -> None:
    """Its checksum, 0, is right."""
    with pytest.raises(OutboxDamaged):
        read_back(ENTRY, **resealed(b""))


def test_every_output_says_where_it_comes_from() -> None:
    headers = [read_provenance(header) for _, header in provenance(ENTRY)]
    assert [record for record, _ in provenance(ENTRY)] == RECORDS
    for header in headers:
        assert (header.topic_id, header.partition) == (SOURCE.topic_id, SOURCE.partition)
        assert (header.first, header.next, header.lineage) == (10, 20, "lineage")
        assert header.count == 2
    assert [header.ordinal for header in headers] == [0, 1]
    assert [header.source_offset for header in headers] == [10, None]


def test_provenance_survives_the_outbox() -> None:
    sent = [header for _, header in provenance(ENTRY)]
    sent_again = [header for _, header in provenance(read_back(ENTRY))]
    assert sent_again == sent


def test_provenance_is_no_longer_than_what_sealing_reckons_with() -> None:
    longest = Source("A" * 22, 2**31 - 1, "f" * 16, 10**12, 10**12 + 10**5)
    entry = seal(1, longest, [RECORDS[0]._replace(source_offset=10**12)] * 1000)
    *_, (_, header) = provenance(entry)
    assert len(header) + len("processor-source") <= PROVENANCE_BYTES


@pytest.mark.parametrize("header", [b"", b"a;b", b"t;0;1;2;3;4;l;5;6", b"t;x;1;2;3;4;l;5"])
def test_a_header_of_another_form_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError):
        read_provenance(header)
