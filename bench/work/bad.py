"""Which messages are bad, for the contenders that meet some."""

from __future__ import annotations

EVERY = 100
"""One of so many, of each partition, is bad."""
SHIFT = 7


def is_bad(partition: int, offset: int) -> bool:
    """Not those of one offset: a batch has those of many partitions at about the same."""
    return (offset + SHIFT * partition) % EVERY == EVERY // 2


def none_bad(partition: int, offset: int) -> bool:  # noqa: ARG001
    return False
