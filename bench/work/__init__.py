"""What is done to each message, by the processor and by those that it is measured beside."""
