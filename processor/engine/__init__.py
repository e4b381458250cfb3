"""The engine: one room for each role on a message's way. docs/architecture.md walks it."""
