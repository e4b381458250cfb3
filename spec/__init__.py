"""The protocol as a TLA+ specification, and the program that has TLC check it."""
