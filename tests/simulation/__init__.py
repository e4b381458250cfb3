"""The real engine over fakes of Kafka and Postgres, under a seeded scheduler and clock."""
