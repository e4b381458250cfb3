"""`python -m devstack`: a stack to try things on, and the parts that it needs."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator

from devstack import parts
from devstack.errors import StackError
from devstack.kafka.archive import ensure_archive
from devstack.stack import Stack

CHECK_SECONDS = 1.0


def main() -> int:
    """The exit code."""
    arguments = _parser().parse_args()
    # A shell starts background jobs with SIGINT ignored; without this a start could not be broken.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if arguments.command == "up":
            return _up(arguments.nodes)
        for line in _found():
            print(line, flush=True)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run Kafka and Postgres until Ctrl-C")
    up.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="Kafka nodes")
    commands.add_parser("parts", help="find or fetch Java, Kafka and Postgres; say which are used")
    return parser


def _found() -> Iterator[str]:
    java = parts.java()
    yield f"java      {java.version}  {java.program}"
    jars = parts.kafka_jars()
    yield f"kafka     {parts.kafka_version()}  {len(jars)} jars in {jars[0].parent}"
    if not java.has_compiler:
        yield f"compiler  {parts.compiler_jars()[0]}"
    postgres = parts.postgres()
    yield f"postgres  {postgres.version}  {postgres.folder}"
    yield f"faketime  {_faketime()}"
    yield f"archive   {ensure_archive()}"


def _faketime() -> str:
    """Only the chaos campaign uses it, and can do without; the test of it says what is missing."""
    try:
        return str(parts.faketime())
    except StackError as error:
        return str(error)


def _up(nodes: int) -> int:
    stop = threading.Event()
    with Stack(kafka_nodes=nodes) as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        print(f"bootstrap.servers  {stack.kafka.bootstrap_servers}")
        print(f"Postgres           {stack.postgres.url}\n")
        for name, value in stack.environment.items():
            print(f"export {name}={value}")
        print("\nCtrl-C ends it, data included.", flush=True)
        while not stop.wait(CHECK_SECONDS):
            stack.check()
    return 0


if __name__ == "__main__":
    sys.exit(main())
