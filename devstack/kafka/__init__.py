"""A real Apache Kafka."""

from devstack.kafka.cluster import Kafka

__all__ = ["Kafka"]
