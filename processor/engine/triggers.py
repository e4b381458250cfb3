"""What is on a group's topic of replays: which dead letter is to be handled again.

A trigger names a letter; the message itself stays in Postgres, where one transaction moves the
letter from pending to replayed and holds all that its handler does. Triggers may come twice, and
for letters that need them no more: those do nothing.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from processor.engine.batch import Partition
from processor.pipeline import REPLAYS_SUFFIX

MOST_TOGETHER = 500


class Trigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """Handle the letter again; or the next message that is parked behind the letter."""

    letter: int | None = None
    queue: int | None = None
    last: bool = False
    """Of those that were sent together for a queue: it asks for more."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Trigger).decode


def replays_topic(group_id: str) -> str:
    """The name of the group's topic of replays."""
    return f"{group_id}{REPLAYS_SUFFIX}"


def key_digest(key: bytes) -> str:
    """Of a message's key: hexadecimal SHA-256. Keys may be longer than an index takes."""
    return sha256(key).hexdigest()


def trigger_key(source: Partition, key: bytes | None) -> bytes:
    """All of one key of one partition has the same key here, so that it stays in order."""
    return (f"{source}/{key_digest(key)}" if key is not None else f"{source}").encode()


def letter_trigger(source: Partition, key: bytes | None, letter: int) -> tuple[bytes, bytes]:
    """Key and value of what has a letter handled again."""
    return trigger_key(source, key), _encode(Trigger(letter=letter))


def queue_triggers(key: bytes, queue: int, parked: int) -> list[tuple[bytes, bytes]]:
    """Keys and values of what has so many parked messages handled; one for none asks once more.

    :param key: of :func:`trigger_key`.
    """
    count = max(1, min(parked, MOST_TOGETHER))
    plain = [(key, _encode(Trigger(queue=queue)))] * (count - 1)
    return [*plain, (key, _encode(Trigger(queue=queue, last=True)))]


def read_trigger(value: bytes | None) -> Trigger | None:
    """None for what is no trigger."""
    try:
        return _decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
