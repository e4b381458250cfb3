"""Who did it, also where the machine has no name for the user."""

from __future__ import annotations

import os
import socket

import pytest

from processor.operations.actor import this_actor

NOBODY = 3_999_999_999
"""A number that no machine has given to anybody."""


@pytest.fixture(autouse=True)
def _nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)


def test_the_user_and_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "kim")
    assert this_actor() == f"kim@{socket.gethostname()}"


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    assert this_actor() == f"uid:{NOBODY}@{socket.gethostname()}"
