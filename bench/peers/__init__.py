"""What one would take instead of the processor: Kafka Streams, Quix Streams, plain Java."""
