"""A pipeline that runs on real servers, driven as one in memory is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from sqlalchemy import MetaData, Table

from processor.errors import ConfigurationError
from processor.operations.broker import Broker
from processor.operations.loading import load_pipeline
from processor.testing.driver import Driver, counts
from processor.testing.ground import claimed, create_tables, create_topics
from processor.testing.process import RunProcess
from processor.testing.results import PipelineTestError
from processor.testing.servers import configured
from processor.testing.service import Service

PATIENCE_SECONDS = 60.0


class RunningPipeline(Driver):
    """``processor run`` on a Kafka and a Postgres that are there, in a consumer group of its own.

    It says and asks what :class:`processor.testing.PipelineTest` does. Its topics are the
    pipeline's, created where they are missing and used as they are where they are not: the group
    begins at their end, and what was produced before is not seen. Pipelines that share a topic take
    turns, also those of other processes that test on the same Postgres.

    :param reference: as ``processor run`` takes it, ``shop.pipeline:pipeline``.
    :param database_url: of a database with the schema ``processor``, for this pipeline alone.
    :param lock_url: of a database that all tests on this server know.
    :param tables: created in the database; the pipeline's own unless given, () for none.
    :param partitions: of topics that are missing: a number for all, or one by topic.
    :param patience_seconds: how long it may take until nothing is left to be done.
    :param settings: of the service, such as ``batch_max_messages=1``.
    :raises PipelineTestError: when it does not start, with the end of its log.
    """

    def __init__(
        self,
        reference: str,
        kafka: str,
        database_url: str,
        *,
        lock_url: str,
        log: Path,
        tables: MetaData | Iterable[Table] | None = None,
        partitions: int | Mapping[str, int] = 1,
        workers: int = 1,
        patience_seconds: float = PATIENCE_SECONDS,
        **settings: Any,
    ) -> None:
        if not isinstance(reference, str):
            raise PipelineTestError(
                "a pipeline that runs is named as in 'processor run': 'shop.pipeline:pipeline'"
            )
        self.log = log
        try:
            pipeline = load_pipeline(reference)
        except ConfigurationError as error:
            raise PipelineTestError(str(error)) from error
        given = pipeline.tables if tables is None else tables
        held = list(given.sorted_tables if isinstance(given, MetaData) else given or ())
        self.group = f"{pipeline.name}-test-{token_hex(4)}"
        named = {"group_id": self.group, "instance": f"test-{token_hex(4)}", **settings}
        configuration = configured(database_url, kafka={"bootstrap_servers": kafka}, **named)
        numbers = counts(pipeline, partitions)
        environment = _environment(kafka, database_url, {"start_from": "latest", **named})
        with ExitStack() as stack:
            stack.enter_context(claimed(lock_url, numbers))
            broker = Broker(configuration)
            numbers = create_topics(broker, numbers)
            create_tables(database_url, held)
            service = Service(
                pipeline,
                configuration,
                broker,
                numbers,
                partial(RunProcess, reference, workers, environment, log),
                patience_seconds,
            )
            self._claim = stack.pop_all()
        self._process = service.process
        super().__init__(pipeline, held, numbers, service)

    def stop(self) -> int:
        """As ``SIGTERM`` stops it: what is in hand is finished; its exit code."""
        return self._process.stop()

    def close(self) -> None:
        """Nothing is left of it but its database; the topics are free for others."""
        try:
            super().close()
        finally:
            self._claim.close()


def _environment(kafka: str, database_url: str, settings: Mapping[str, Any]) -> dict[str, str]:
    given = {"kafka__bootstrap_servers": kafka, "database__url": database_url, **settings}
    return {f"PROCESSOR_{name.upper()}": str(value) for name, value in given.items()}
