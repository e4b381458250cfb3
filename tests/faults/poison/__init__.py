"""The campaign of bad messages: set aside, repaired, handled again, while workers are killed.

``make poison`` runs it whole; tests/faults/test_poison.py has a slice of it.
"""
