"""The pipeline's Alembic history on a real Postgres."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from devstack import Postgres
from pipelines.user_events.tables import metadata

ROOT = Path(__file__).parents[2]
TABLES = {"user_analytics", "purchases", "processed_events", "alembic_version"}

Alembic = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def alembic(database: str) -> Alembic:
    """Runs ``alembic -n user_events …`` from the repository's root."""

    def run(*arguments: str, code: int = 0, url: str = database) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", "-n", "user_events", *arguments],
            cwd=ROOT,
            env=os.environ | {"PROCESSOR_DATABASE__URL": url},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture
def engine(database: str) -> Iterator[sa.Engine]:
    engine = engine_of(database)
    yield engine
    engine.dispose()


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))


def described(engine: sa.Engine) -> dict[str, Any]:
    """All that the catalogue says of the pipeline's tables."""
    inspector = sa.inspect(engine)
    return {
        name: {
            "columns": [
                (each["name"], str(each["type"]), each["nullable"], each["default"])
                for each in inspector.get_columns(name, "user_events")
            ],
            "key": inspector.get_pk_constraint(name, "user_events"),
            "indexes": inspector.get_indexes(name, "user_events"),
            "options": inspector.get_table_options(name, "user_events"),
        }
        for name in inspector.get_table_names("user_events")
        if name != "alembic_version"
    }


def test_the_migrated_schema_is_the_declared_one(
    alembic: Alembic, engine: sa.Engine, postgres: Postgres, database: str
) -> None:
    alembic("upgrade", "head")
    declared = engine_of(postgres.create_database(f"{database.rsplit('/', 1)[1]}-declared"))
    with declared.begin() as connection:
        connection.execute(sa.schema.CreateSchema("user_events"))
        metadata.create_all(connection)
    assert described(engine) == described(declared)
    declared.dispose()
    assert "No new upgrade operations detected" in alembic("check").stdout


def test_a_difference_is_seen(alembic: Alembic, database: str) -> None:
    alembic("upgrade", "head")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE user_events.purchases DROP COLUMN currency")
    assert "currency" in alembic("check", code=255).stdout


def test_it_goes_down_and_up_again(alembic: Alembic, engine: sa.Engine) -> None:
    alembic("upgrade", "head")
    before = described(engine)
    alembic("downgrade", "base")
    assert sa.inspect(engine).get_table_names("user_events") == ["alembic_version"]
    alembic("upgrade", "head")
    assert described(engine) == before


def test_it_touches_its_own_schema_only(alembic: Alembic, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE public.alembic_version (version_num text)"))
        connection.execute(sa.text("INSERT INTO public.alembic_version VALUES ('9999')"))
        connection.execute(sa.text("CREATE SCHEMA other CREATE TABLE other.purchases (id int)"))
    alembic("upgrade", "head")
    assert "No new upgrade operations detected" in alembic("check").stdout
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names("user_events")) == TABLES
    assert inspector.get_table_names("public") == ["alembic_version"]
    assert inspector.get_table_names("other") == ["purchases"]
    assert "processor" not in inspector.get_schema_names()
    with engine.connect() as connection:
        versions = connection.execute(sa.text("SELECT version_num FROM public.alembic_version"))
        assert versions.scalars().all() == ["9999"]


def test_two_at_once_do_it_once(engine: sa.Engine, database: str) -> None:
    command = [sys.executable, "-m", "alembic", "-n", "user_events", "upgrade", "head"]
    environment = os.environ | {"PROCESSOR_DATABASE__URL": database}
    both = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    assert set(sa.inspect(engine).get_table_names("user_events")) == TABLES


def test_a_wrong_url_is_told_in_a_line(alembic: Alembic) -> None:
    done = alembic("upgrade", "head", code=255, url="mysql://localhost/x")
    assert "postgresql://user@host:port/database" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
