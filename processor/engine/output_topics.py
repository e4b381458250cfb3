"""What the output topics take: their partitions, sizes and times, read once at the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import RESOURCE_TOPIC, ConfigResource

from processor.engine.cluster import READ_TIMEOUT_SECONDS, Cluster, TopicFacts
from processor.engine.observer import Observer
from processor.engine.sealing import Rules
from processor.pipeline import Pipeline

BEFORE = "message.timestamp.before.max.ms"
AFTER = "message.timestamp.after.max.ms"
NO_LIMIT = 2**63 - 1
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's own default for ``max.message.bytes``, assumed where it may not be read."""


def partition_counts(cluster: Cluster, pipeline: Pipeline) -> dict[str, int]:
    """Of the output topics; one that could not be read is missing."""
    if not pipeline.outputs:
        return {}
    facts = cluster.topics(pipeline.outputs)
    return {name: fact.partitions for name, fact in facts.items() if isinstance(fact, TopicFacts)}


def output_rules(
    admin: Any, pipeline: Pipeline, observer: Observer
) -> tuple[dict[str, int], dict[str, Rules]]:
    """What each output topic takes; Kafka's default, with a warning, where it may not be read."""
    limits = dict.fromkeys(pipeline.outputs, DEFAULT_MAX_MESSAGE_BYTES)
    rules: dict[str, Rules] = {}
    if not limits:
        return limits, rules
    resources = [ConfigResource(RESOURCE_TOPIC, name) for name in limits]
    futures = admin.describe_configs(resources, request_timeout=READ_TIMEOUT_SECONDS)
    for resource, future in futures.items():
        try:
            entries = future.result(READ_TIMEOUT_SECONDS + 1)
            limits[resource.name] = int(entries["max.message.bytes"].value)
            rules[resource.name] = _rules(entries)
        except (KafkaException, TimeoutError, KeyError, ValueError) as error:
            observer.noted(
                "max-message-bytes-unknown",
                topic=resource.name,
                assumed=DEFAULT_MAX_MESSAGE_BYTES,
                reason=str(error),
            )
    return limits, rules


def _rules(entries: Mapping[str, Any]) -> Rules:
    def milliseconds(name: str) -> int | None:
        """None where the limit is Kafka's way of saying that there is none."""
        value = int(entries[name].value) if name in entries else NO_LIMIT
        return None if value >= NO_LIMIT else value

    stamped_by_broker = entries["message.timestamp.type"].value == "LogAppendTime"
    return Rules(
        compacted="compact" in entries["cleanup.policy"].value,
        before_milliseconds=None if stamped_by_broker else milliseconds(BEFORE),
        after_milliseconds=None if stamped_by_broker else milliseconds(AFTER),
    )
