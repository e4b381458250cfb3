"""What is on a group's topic of replays: which dead letter is to be handled again.

A trigger names a letter; the message itself stays in Postgres, where one transaction moves the
letter from pending to replayed and holds all that its handler does. Triggers may come twice, and
for letters that need them no more: those do nothing.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from processor.engine.batch import Partition

SUFFIX = ".replays"


class Trigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """Handle the letter again; or what is parked behind the letter."""

    letter: int | None = None
    queue: int | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Trigger).decode


def replays_topic(group_id: str) -> str:
    """The name of the group's topic of replays."""
    return f"{group_id}{SUFFIX}"


def key_digest(key: bytes) -> str:
    """Of a message's key: hexadecimal SHA-256. Keys may be longer than an index takes."""
    return sha256(key).hexdigest()


def trigger(
    source: Partition, key: bytes | None, *, letter: int | None = None, queue: int | None = None
) -> tuple[bytes, bytes]:
    """A trigger's key and value.

    All of one key of one partition has the same key here, so that it stays in order.
    """
    place = f"{source}/{key_digest(key)}" if key is not None else f"{source}"
    return place.encode(), _encode(Trigger(letter, queue))


def read_trigger(value: bytes | None) -> Trigger | None:
    """None for what is no trigger."""
    try:
        return _decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
