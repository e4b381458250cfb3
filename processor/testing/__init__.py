"""For tests of pipelines: Kafka and Postgres in memory, under a seeded scheduler and clock."""
