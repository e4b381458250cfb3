"""A handler's output becomes exact bytes, or an error that says what to do."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor import Output, Topic, codecs
from processor.engine.batch import Source
from processor.engine.outbox import decode_entry, seal
from processor.engine.sealing import Rules, Sealer, size_of
from processor.errors import OutputTooLarge, PipelineError

LIMIT = 1_000
SEALER = Sealer(
    {topic.name: topic for topic in map(Topic.of, ["json", Topic("packed", codecs.msgpack)])},
    {"json": LIMIT, "packed": LIMIT},
)


def sealed(*, topic: str = "json", value: Any = b"v", **fields: Any) -> Any:
    record, size = SEALER.seal(Output(topic, value=value, **fields), offset=41, timestamp=1_234)
    assert size == size_of(record.key, record.value, record.headers)
    return record


def test_values_go_through_their_topics_codec() -> None:
    assert sealed(value={"a": 1}).value == b'{"a":1}'
    assert sealed(topic="packed", value={"a": 1}).value == b"\x81\xa1a\x01"


@given(st.none() | st.binary(max_size=200))
def test_bytes_and_tombstones_pass_unchanged(value: bytes | None) -> None:
    assert sealed(value=value).value == value
    assert sealed(key=value).key == value
    assert sealed(headers=[("h", value)]).headers == (("h", value),)


class Bytes(bytes):
    """As web3's HexBytes, or numpy's."""


class Text(str):
    """As an enum's member."""


class Number(int):
    """As numpy's, or an IntEnum's member."""


class Plain:
    """Implements ``Codec`` badly: it gives back whatever it was given."""

    name = "plain"

    def encode(self, value: Any) -> Any:
        return value["as"]

    def decoder(self, kind: Any) -> Any:
        raise AssertionError(f"nothing of {kind} is read")


CODED = Sealer({"coded": Topic("coded", Plain())}, {})


def test_the_outbox_holds_whatever_is_sealed_and_gives_it_back() -> None:
    record = sealed(
        key=Text("key"),
        value=Bytes(b"value"),
        headers=[(Text("name"), Bytes(b"content"))],
        timestamp=Number(5),
        partition=Number(3),
    )
    kinds = [type(each) for each in (record.key, record.value, *record.headers[0])]
    assert kinds == [bytes, bytes, str, bytes]
    source = Source("id", 0, "lineage", 41, 42)
    entry = seal(1, source, [record])
    again = decode_entry(1, 41, 42, 1, entry.checksum, entry.payload)
    [found] = again.records
    assert found._replace(headers=tuple(found.headers)) == record


@pytest.mark.parametrize("value", [Bytes(b"v"), bytearray(b"v"), memoryview(b"v")])
def test_what_a_codec_makes_is_bytes_from_then_on(value: Any) -> None:
    record, _ = CODED.seal(Output("coded", value={"as": value}), 1, 1)
    assert type(record.value) is bytes
    assert record.value == b"v"


def test_a_codec_that_makes_text_is_the_pipelines_fault() -> None:
    with pytest.raises(PipelineError, match="codec of topic 'coded' returned str"):
        CODED.seal(Output("coded", value={"as": "text"}), 1, 1)


@pytest.mark.parametrize("fields", [{"timestamp": True}, {"partition": True}, {"partition": 2**31}])
def test_what_kafka_has_no_number_for_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"True|2147483648"):
        sealed(**fields)


def test_text_keys_and_headers_are_utf8() -> None:
    record = sealed(key="clé", headers=[("h", "é"), ("h", b"\xff"), ("n", None)])
    assert record.key == "clé".encode()
    assert record.headers == (("h", "é".encode()), ("h", b"\xff"), ("n", None))


def test_an_empty_key_is_not_a_missing_one() -> None:
    assert sealed(key="").key == b""
    assert sealed(key=b"").key == b""
    assert sealed().key is None


def test_text_is_a_json_value_like_any_other() -> None:
    assert sealed(value="text").value == b'"text"'


def test_source_partition_and_timestamp_are_frozen_with_the_bytes() -> None:
    record = sealed(partition=3)
    assert (record.source_offset, record.partition, record.timestamp) == (41, 3, 1_234)
    assert sealed(timestamp=0).timestamp == 0, "the output's own timestamp comes first, 0 too"


def test_without_any_timestamp_it_is_now() -> None:
    record, _ = SEALER.seal(Output("json", value=1), None, None)
    assert abs(record.timestamp - time.time() * 1_000) < 60_000


def test_an_undeclared_topic_is_the_pipelines_fault() -> None:
    with pytest.raises(PipelineError, match="'elsewhere' is not declared"):
        sealed(topic="elsewhere")


@pytest.mark.parametrize("output", [None, b"bytes", {"topic": "json"}])
def test_what_is_no_output_is_the_pipelines_fault(output: Any) -> None:
    with pytest.raises(PipelineError, match=type(output).__name__):
        SEALER.seal(output, 1, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"value": b"x" * LIMIT},
        {"key": b"x" * LIMIT},
        {"headers": [("h", b"x" * LIMIT)]},
        {"headers": [("x" * LIMIT, None)]},
        {"value": {"a": "x" * LIMIT}},
    ],
    ids=["value", "key", "header", "header name", "encoded value"],
)
def test_what_its_topic_would_refuse_is_found_before_anything_is_sent(fields: Any) -> None:
    with pytest.raises(OutputTooLarge, match=f"'json' takes {LIMIT}"):
        sealed(**fields)


def test_a_topic_without_a_known_limit_takes_anything() -> None:
    sealer = Sealer({"json": Topic("json")}, {})
    record, _ = sealer.seal(Output("json", value=b"x" * 10_000), 1, 1)
    assert len(record.value or b"") == 10_000


def test_the_size_counts_key_value_and_headers() -> None:
    assert size_of(None, None, ()) == 0
    assert size_of(b"12", b"345", ()) == 5
    assert size_of(b"", b"", (("name", b"value"),)) >= 9


@pytest.mark.parametrize(
    "fields",
    [
        {"partition": -5},
        {"partition": "0"},
        {"timestamp": 1.5},
        {"timestamp": 2**63},
        {"headers": [("\ud800", b"")]},
        {"headers": [("name", 5)]},
        {"headers": [(5, b"")]},
        {"headers": [(b"name", b"")]},
        {"key": 5},
    ],
    ids=lambda fields: str(fields).encode("ascii", "backslashreplace").decode(),
)
def test_what_the_client_would_choke_on_is_found_while_the_handler_can_be_blamed(
    fields: Any,
) -> None:
    """Past sealing no message can be blamed any more: the worker would end, again and again, or
    the outbox could not be read back.
    """
    with pytest.raises(Exception, match=r".+"):
        sealed(**fields)


def test_a_time_before_1970_is_held_to_the_topics_rules_too() -> None:
    """It may come from an input."""
    rules = {"json": Rules(compacted=True)}
    sealer = Sealer({"json": Topic.of("json")}, {}, {}, rules)
    with pytest.raises(ValueError, match="needs a key"):
        sealer.seal(Output("json", value=b"v"), 1, -5)
