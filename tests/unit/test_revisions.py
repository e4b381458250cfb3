"""Which revisions a worker takes, and that code and migrations agree on them."""

from __future__ import annotations

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from processor import revisions
from processor.errors import Exit, SchemaMismatch
from processor.operations import migrations
from processor.schema import REVISIONS


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrations.folder()))
    return ScriptDirectory.from_config(config)


KNOWN = ("0001", "0002", "0003")


@pytest.mark.parametrize("found", ["0003", "0004"])
def test_its_own_and_the_next_revision_fit(found: str) -> None:
    revisions.judge(found, KNOWN)


def test_no_schema_names_the_command() -> None:
    with pytest.raises(SchemaMismatch, match="run: processor migrate") as caught:
        revisions.judge(None, KNOWN)
    assert caught.value.exit_code == Exit.SCHEMA


@pytest.mark.parametrize("found", ["0001", "0002"])
def test_an_older_revision_names_both_and_the_command(found: str) -> None:
    with pytest.raises(SchemaMismatch, match=rf"{found}.*0003.*processor migrate"):
        revisions.judge(found, KNOWN)


@pytest.mark.parametrize("found", ["0005", "abc"])
def test_more_than_one_ahead_asks_for_a_newer_version(found: str) -> None:
    with pytest.raises(SchemaMismatch, match=rf"{found}.*0003 or 0004.*newer version"):
        revisions.judge(found, KNOWN)


def test_the_code_knows_exactly_the_migrations_there_are() -> None:
    found = [script.revision for script in scripts().walk_revisions()]
    assert tuple(reversed(found)) == REVISIONS
    assert scripts().get_heads() == [revisions.LATEST]


def test_revisions_are_numbered_without_gaps() -> None:
    assert tuple(f"{n:04}" for n in range(1, len(REVISIONS) + 1)) == REVISIONS
