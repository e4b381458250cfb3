"""Codecs turn bytes into values and back: :data:`json`, :data:`msgpack`, :data:`raw`.

A codec of your own is any object with the two methods of :class:`Codec`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec


class Codec(Protocol):
    """How a topic's values are written.

    ``decoder`` is called once for each set of types that a topic carries, at registration;
    what it returns is called for each message and may raise anything for bad input.
    """

    name: str

    def encode(self, value: Any) -> bytes: ...

    def decoder(self, kind: Any) -> Callable[[bytes], Any]: ...


class _Json:
    name = "json"

    def __init__(self) -> None:
        self.encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode

    def decoder(self, kind: Any) -> Callable[[bytes], Any]:
        return msgspec.json.Decoder(kind).decode


class _MessagePack:
    name = "msgpack"

    def __init__(self) -> None:
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode

    def decoder(self, kind: Any) -> Callable[[bytes], Any]:
        return msgspec.msgpack.Decoder(kind).decode


class _Raw:
    name = "raw"

    def encode(self, value: Any) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode()

    def decoder(self, kind: Any) -> Callable[[bytes], Any]:  # noqa: ARG002
        return bytes


json: Codec = _Json()
msgpack: Codec = _MessagePack()
raw: Codec = _Raw()

__all__ = ["Codec", "json", "msgpack", "raw"]
