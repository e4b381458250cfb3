"""The last line, and the exit status that goes with it."""

from __future__ import annotations

from collections.abc import Iterator

from demo.acts import Outcome

EXIT_FINE = 0
EXIT_BAD = 1


def exit_code(outcome: Outcome) -> int:
    """1 on any duplicate, loss, disorder or miscount."""
    return EXIT_FINE if outcome.verdict.fine and not _missing(outcome) else EXIT_BAD


def closing_line(outcome: Outcome) -> str:
    """What was counted in both stores."""
    return f"{outcome.verdict.sentence()} · {outcome.kills} kills"


def explanation(outcome: Outcome) -> Iterator[str]:
    """What the closing line means: why it is fine, or what is wrong."""
    verdict = outcome.verdict
    if exit_code(outcome) == EXIT_FINE:
        yield "Each event is in Postgres and in the output topic, once and in order; or, as it"
        yield (
            f"could not be decoded, a dead letter:"
            f" {verdict.in_postgres:,} + {verdict.dead_letters:,} = {verdict.produced:,}."
        )
        return
    yield "The promise does not hold:"
    yield from (f"  {example}" for example in verdict.examples)
    if _missing(outcome):
        yield (
            f"  Kafka confirmed {outcome.delivered:,} events, and its input topic holds"
            f" {verdict.produced:,}"
        )


def _missing(outcome: Outcome) -> bool:
    """What the idempotent producer was promised must be what the topic holds."""
    return outcome.delivered != outcome.verdict.produced
