"""The processor beside what one would take instead, each in an environment of its own."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from bench.contenders import BOUND, Contender, processor
from bench.environments import tell
from bench.ground import Ground, Shape
from bench.latency import compare, warm_broker
from bench.peers.environments import HERE, java_command, quix_python
from bench.results import Result, rounds
from bench.throughput import Case, measure

SHAPE = Shape(5_000_000)
"""More than the fastest of them does while it gets warm and is measured."""
UNIT = "messages/s"
SECONDS = 5.0
RATE = 1_000
"""Messages a second, where time is measured."""
JAVA_WARM_SECONDS = 10.0
"""Until the compiler is through with what is run for each message."""
NOTES = (
    f"The processor and plain Java take up to {BOUND:,} messages a batch.",
    "Kafka Streams commits every 100 ms, its default under exactly-once, and so does Quix here.",
    "Plain Java commits to Postgres and then to Kafka: a crash between them repeats rows.",
    "Quix's sink keeps rows but no counters; it commits every second.",
)


def peers(ground: Ground, count: int) -> Result:
    """Kafka Streams and Quix Streams at the transform; plain Java and Quix's sink at the rows."""
    contenders = [
        processor("transform"),
        kafka_streams(ground.folder),
        quix("transform", ground.folder),
        processor("full"),
        plain_java(ground.stack.postgres.url),
        quix("rows", ground.folder),
    ]
    cases = {each.name: Case(each, SHAPE) for each in contenders}
    tell("the broker's own Java gets warm: a run that does not count")
    speed(ground, cases["Kafka Streams, transform"])
    series = rounds(count, list(cases), lambda name: speed(ground, cases[name]))
    result = Result("peers", "Beside its peers", UNIT, series)
    result.ratio("processor, transform", "Kafka Streams, transform", 1.2)
    result.ratio("processor, transform", "Quix, transform", 2.5)
    result.ratio("processor, full", "plain Java, full", 1.0)
    result.ratio("processor, full", "Quix, rows", 3)
    result.notes += NOTES
    ground.forget(SHAPE)
    return result


def waiting(ground: Ground, count: int) -> Result:
    """From produce to visible, beside Kafka Streams as it is set for exactly-once."""
    ours, theirs = processor("full"), kafka_streams(ground.folder)
    warm_broker(ground)
    result = compare("peers-latency", ground, count, [ours, theirs], [RATE])
    for share, most in (("p50", 1 / 4), ("p99", 1 / 3)):
        case = f"{RATE:,.0f}/s, {share}"
        result.ratio(f"{ours.name}, {case}", f"{theirs.name}, {case}", most, at_most=True)
    result.notes.append("Kafka Streams only transforms; it commits every 100 ms, its default.")
    return result


def speed(ground: Ground, case: Case) -> float:
    return measure(ground, case, SECONDS).per_second


def kafka_streams(folder: Path) -> Contender:
    """exactly_once_v2 on one thread, whose state is kept in the folder."""
    return Contender(
        "Kafka Streams, transform",
        java_command("KafkaStreamsTransform"),
        directory=folder,
        warm_seconds=JAVA_WARM_SECONDS,
    )


def plain_java(database: str) -> Contender:
    """A poll of kafka-clients, COPY by JDBC, both committed one after the other."""
    return Contender(
        "plain Java, full",
        java_command("PlainFull"),
        tables=True,
        environment={"BENCH_BOUND": str(BOUND), "BENCH_JDBC_URL": jdbc_url(database)},
        warm_seconds=JAVA_WARM_SECONDS,
    )


def quix(work: str, folder: Path) -> Contender:
    """One of the works of quix_app.py; where it runs, it makes a folder for state."""
    return Contender(
        f"Quix, {work}",
        (quix_python(), "-P", HERE / "quix_app.py", work),
        tables=work == "rows",
        counters=False,
        directory=folder,
    )


def jdbc_url(url: str) -> str:
    """As the JDBC driver reads it, which wants the user behind the place.

    >>> jdbc_url("postgresql://me:secret@localhost:5432/postgres")
    'jdbc:postgresql://localhost:5432/postgres?user=me&password=secret'
    """
    parts = urlsplit(url)
    password = f"&password={parts.password}" if parts.password else ""
    place = parts.netloc.rpartition("@")[2]
    return f"jdbc:postgresql://{place}{parts.path}?user={parts.username}{password}"
