"""Fixtures for pytest: pipelines in memory, and on servers that are there (docs/testing.md).

Loaded in each run of pytest where this package is installed: nothing is imported before a fixture
is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from processor.pipeline import Pipeline
    from processor.testing.pipeline_test import PipelineTest
    from processor.testing.running import RunningPipeline
    from processor.testing.servers import Databases

T = TypeVar("T")
KAFKA = "PROCESSOR_TEST_KAFKA"
DATABASE_URL = "PROCESSOR_TEST_DATABASE_URL"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(KAFKA.lower(), f"Kafka for tests, host:port; {KAFKA} comes first", default="")
    parser.addini(
        DATABASE_URL.lower(),
        f"URL of a Postgres for tests, by a user who may create databases; {DATABASE_URL} first",
        default="",
    )


@pytest.fixture
def pipeline_test() -> Iterator[Callable[..., PipelineTest]]:
    """Makes pipelines in memory: ``pipeline_test(pipeline)``, with what PipelineTest takes."""
    from processor.testing.pipeline_test import PipelineTest

    with ExitStack() as stack:

        def make(pipeline: Pipeline, **named: Any) -> PipelineTest:
            return stack.enter_context(PipelineTest(pipeline, **named))

        yield make


@pytest.fixture(scope="session")
def processor_kafka(pytestconfig: pytest.Config) -> str:
    """Bootstrap servers of a Kafka for tests; the test fails where none is configured."""
    given = _configured(pytestconfig, KAFKA, "localhost:9092", "kafka")
    from processor.testing.servers import reached

    return _or_fail(lambda: reached(given))


@pytest.fixture(scope="session")
def _processor_databases(pytestconfig: pytest.Config) -> Iterator[Databases]:
    example = "postgresql://processor:processor@localhost:5432/processor"
    given = _configured(pytestconfig, DATABASE_URL, example, "postgres")
    from processor.testing.servers import Databases

    databases = Databases(given)
    yield databases
    databases.close()


@pytest.fixture
def processor_postgres(_processor_databases: Databases) -> Iterator[str]:
    """URL of a new database with the schema ``processor``, dropped at the end of the test."""
    url = _or_fail(_processor_databases.create)
    yield url
    _processor_databases.drop(url)


@pytest.fixture
def running_pipeline(
    processor_kafka: str,
    processor_postgres: str,
    _processor_databases: Databases,
    tmp_path: Path,
) -> Iterator[Callable[..., RunningPipeline]]:
    """Runs a pipeline on both: ``running_pipeline("shop.pipeline:pipeline")``.

    Takes what RunningPipeline takes; each is stopped at the end of the test.
    """
    from processor.testing.running import RunningPipeline

    with ExitStack() as stack:

        def run(reference: str, **named: Any) -> RunningPipeline:
            made = RunningPipeline(
                reference,
                processor_kafka,
                processor_postgres,
                lock_url=_processor_databases.url,
                log=tmp_path / "processor.log",
                **named,
            )
            return stack.enter_context(made)

        yield run


def _configured(config: pytest.Config, name: str, example: str, service: str) -> str:
    """From the environment, else from pytest's configuration."""
    given = os.environ.get(name) or str(config.getini(name.lower()))
    if not given:
        pytest.fail(
            f"this test needs a real {service.capitalize()}: set {name}, or {name.lower()} in"
            f" pytest's configuration, to {example} for example"
            f" (docker compose up -d {service})",
            pytrace=False,
        )
    return given


def _or_fail(call: Callable[[], T]) -> T:
    """One sentence instead of a traceback."""
    from processor.errors import ProcessorError

    try:
        return call()
    except ProcessorError as error:
        pytest.fail(str(error), pytrace=False)
