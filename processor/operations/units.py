"""Durations and sizes as people write them.

>>> milliseconds("7d"), milliseconds("90m"), milliseconds("forever")
(604800000, 5400000, -1)
>>> duration(604800000), duration(5400000), duration(-1)
('7d', '90m', 'forever')
>>> size(1048588), size(512)
('1.0 MiB', '512 B')
"""

from __future__ import annotations

import re

from processor.errors import ConfigurationError

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
FOREVER = "forever"

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def milliseconds(text: str) -> int:
    """:raises ConfigurationError: when the text is no duration."""
    if text == FOREVER:
        return -1
    match = re.fullmatch(r"(\d+)\s*(d|h|m|s|ms)", text.strip())
    if match is None:
        raise ConfigurationError(f"{text!r} is no duration; write 7d, 12h, 90m, 30s or {FOREVER}")
    return int(match[1]) * _UNITS[match[2]]


def duration(value: int) -> str:
    """Milliseconds, in the largest unit that is exact."""
    if value < 0:
        return FOREVER
    for unit, length in _UNITS.items():
        if value and value % length == 0:
            return f"{value // length}{unit}"
    return "0s"


def size(value: int) -> str:
    """Bytes, in a unit that reads well."""
    exponent = min((max(value, 1).bit_length() - 1) // 10, len(_SIZES) - 1)
    return f"{value} B" if exponent == 0 else f"{value / 1024**exponent:.1f} {_SIZES[exponent]}"
