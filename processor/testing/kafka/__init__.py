"""Kafka in memory: one broker, and clients with the methods of confluent_kafka that are used."""
