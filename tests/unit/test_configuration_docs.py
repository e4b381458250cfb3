"""docs/configuration.md is complete, and its defaults are true."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from processor.errors import Exit
from processor.settings import ENGINE_OWNED, Settings

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ")
]
UNITS = {"seconds": "seconds", "messages": "messages", "bytes": "bytes"}


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting's name and default."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from fields(type(default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", default


SETTINGS = dict(fields(Settings))
DOCUMENTED = {row[0].strip("`"): row[1:] for row in ROWS if len(row) == 4 and row[0] != "setting"}


def test_every_setting_is_documented_and_no_other() -> None:
    assert list(DOCUMENTED) == list(reordered())


def reordered() -> Iterator[str]:
    """General settings first, then the sections in their order."""
    yield from (name for name in SETTINGS if "." not in name)
    yield from (name for name in SETTINGS if "." in name)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_default_is_true(name: str) -> None:
    told = DOCUMENTED[name][0]
    default = SETTINGS[name]
    if name == "instance":
        assert (told, default) == ("the host name", socket.gethostname())
    elif name == "group_id":
        assert (told, default) == ("the pipeline's name", None)
    elif default == {}:
        assert told == "none"
    else:
        assert told == f"`{spelt(default)}`"


def spelt(default: Any) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_unit_is_named(name: str) -> None:
    unit = next((unit for end, unit in UNITS.items() if name.endswith(f"_{end}")), "")
    assert DOCUMENTED[name][1] == unit
    assert DOCUMENTED[name][2].endswith(".")


def test_every_property_of_the_engine_is_listed_with_its_reason() -> None:
    listed = {row[0].strip("`"): row[1] for row in ROWS if len(row) == 2 and row[0][0] == "`"}
    assert listed == ENGINE_OWNED


def test_the_exit_codes_are_the_codes() -> None:
    told = {int(row[0]) for row in ROWS if re.fullmatch(r"\d+", row[0])}
    # Ctrl-C is the shell's convention.
    assert told == {int(code) for code in Exit} | {130}


def test_the_example_is_a_valid_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.settings import load

    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "processor.toml").write_text(example)
    monkeypatch.chdir(tmp_path)
    configured = load()
    assert configured.kafka.client["security.protocol"] == "SASL_SSL"
    assert configured.batch_max_messages == 5000
