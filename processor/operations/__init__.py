"""What an operator does around the engine: set up, check, look. No terminal here; see cli."""
