"""Durations and sizes, as they are read and as they are shown."""

from __future__ import annotations

import pytest

from processor.errors import ConfigurationError
from processor.operations.outbox import readable
from processor.operations.units import duration, milliseconds, size


@pytest.mark.parametrize("text", ["7d", "12h", "90m", "30s", "250ms", "forever"])
def test_durations_are_read_and_shown_alike(text: str) -> None:
    assert duration(milliseconds(text)) == text


@pytest.mark.parametrize("text", ["", "7", "d", "7 days", "-1d", "1.5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no duration"):
        milliseconds(text)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0s"), (1_500, "1500ms"), (60_000, "1m"), (-1, "forever")]
)
def test_durations_take_the_largest_exact_unit(value: int, shown: str) -> None:
    assert duration(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (1_048_588, "1.0 MiB"),
        (5 * 1024**4, "5.0 TiB"),
    ],
)
def test_sizes(value: int, shown: str) -> None:
    assert size(value) == shown


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (None, None),
        (b"", ""),
        ("é".encode(), "é"),
        (b"\xff", "base64:/w=="),
        (b'{\n  "a": 1\n}', '{\n  "a": 1\n}'),
        (b"\x1b[31m", "base64:G1szMW0="),
    ],
)
def test_bytes_are_shown_as_text_only_where_that_is_safe(
    data: bytes | None, shown: str | None
) -> None:
    assert readable(data) == shown
