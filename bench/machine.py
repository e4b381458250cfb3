"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from devstack.parts import kafka_version


def machine(postgres: str) -> str:
    """In one line: processor, cores, memory, versions.

    :param postgres: its version, as it tells itself.
    """
    return (
        f"{_processor()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB;"
        f" Python {platform.python_version()}, Kafka {kafka_version()}, PostgreSQL {postgres}"
    )


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
