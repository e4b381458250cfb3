"""While a world runs, the engine's chance is its own: the same seed goes the same way."""

from __future__ import annotations

import random
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from random import Random
from threading import RLock
from types import ModuleType
from typing import Any

from processor.engine import worker

IDLE_SECONDS = 1.0
"""How long an idle worker waits for a message: longer than in earnest, as each turn costs, and
what arrives wakes it."""
_ENGINE = "processor.engine."
_one_at_a_time = RLock()
"""Worlds of several threads take turns: the engine's modules are one for all of them."""


@contextmanager
def own_chance(chance: Random) -> Iterator[None]:
    """Tokens and jitter are drawn from here, and nothing outside the engine is touched."""

    def token_hex(count: int) -> str:
        return chance.randbytes(count).hex()

    with _one_at_a_time, _patched(_places(), {"random": chance, "token_hex": token_hex}):
        yield


@contextmanager
def _patched(
    places: list[tuple[ModuleType, str]], instead: dict[str, Random | Callable[[int], str]]
) -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name in places]
    idle_seconds = worker.IDLE_SECONDS
    try:
        for module, name in places:
            setattr(module, name, instead[name])
        worker.IDLE_SECONDS = IDLE_SECONDS
        yield
    finally:
        worker.IDLE_SECONDS = idle_seconds
        for module, name, value in before:
            setattr(module, name, value)


@cache
def _places() -> list[tuple[ModuleType, str]]:
    """Where the engine takes its chance from; all of it is loaded by then."""
    sources: dict[str, Any] = {"random": random, "token_hex": secrets.token_hex}
    return [
        (module, name)
        for module_name, module in sorted(sys.modules.items())
        if module_name.startswith(_ENGINE)
        for name, source in sources.items()
        if getattr(module, name, None) is source
    ]
