"""A project of a user of this package, tested by its own pytest."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

import pytest

from tests.support.running import ROOT

SHOP = """
import msgspec
from sqlalchemy import BigInteger, Column, Float, MetaData, Table

from processor import Halt, Message, Output, Pipeline, Transaction

metadata = MetaData(schema="shop")
purchases = Table(
    "purchases",
    metadata,
    Column("user_id", BigInteger),
    Column("amount", Float),
)
gates = Table("gates", metadata, Column("name", BigInteger, primary_key=True))


class Purchase(msgspec.Struct, tag_field="event_type", tag="purchase"):
    user_id: int
    amount: float


class Gate(msgspec.Struct, tag_field="event_type", tag="gate"):
    name: int


pipeline = Pipeline("shop", outputs=["{prefix}receipts"], tables=metadata)


@pipeline.handler("{prefix}events")
def purchased(event: Purchase, message: Message, tx: Transaction):
    if event.amount < 0:
        raise ValueError("negative")
    tx.insert(purchases, {"user_id": event.user_id, "amount": event.amount})
    yield Output("{prefix}receipts", key=message.key, value={"paid": event.amount})


@pipeline.handler("{prefix}events")
def gated(event: Gate, tx: Transaction) -> None:
    if tx.fetch_one("SELECT 1 FROM shop.gates WHERE name = %s", [event.name]) is None:
        raise Halt("the gate is shut")
"""


def entry_points() -> str:
    """What an installed package would hold of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [(name, module)] = project["entry-points"]["pytest11"].items()
    return f"[pytest11]\n{name} = {module}\n"


def make_project(pytester: pytest.Pytester, prefix: str = "") -> None:
    """One of its own: topics have a prefix, so that no other test's are touched."""
    pytester.makepyfile(shop=SHOP.replace("{prefix}", prefix))
    _install(pytester)


def make_documented_project(pytester: pytest.Pytester) -> None:
    """The one of the README, which docs/testing.md tests."""
    [example] = re.findall(
        r"```python\n# shop/pipeline.py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    (pytester.mkpydir("shop") / "pipeline.py").write_text(example)
    _install(pytester)


def examples() -> list[str]:
    """Those of docs/testing.md."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL)


def _install(pytester: pytest.Pytester) -> None:
    """This package beside it, with its entry points."""
    info = pytester.mkdir("kit-1.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kit\nVersion: 1\n")
    (info / "entry_points.txt").write_text(entry_points())


def run_project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> pytest.RunResult:
    """Its tests, in a process of their own."""
    for name in ("PROCESSOR_TEST_KAFKA", "PROCESSOR_TEST_DATABASE_URL", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{pytester.path}:{ROOT}")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rA")
