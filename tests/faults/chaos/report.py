"""What a campaign came to: a table for the terminal, JSON, and the page in docs/reliability.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.faults.chaos.campaign import FAILOVER, Result
from tests.support.checker import Kind, summary

BEGIN, END = "<!-- campaign -->", "<!-- /campaign -->"
HEADS = ("fault", "times", "recovery p50", "p99")
DOUBLED = (Kind.EFFECT_DUPLICATED, Kind.OUTPUT_DUPLICATED, Kind.LETTER_DUPLICATED)
LOST = (Kind.EFFECT_LOST, Kind.OUTPUT_LOST, Kind.LETTER_LOST)
DISORDERED = (Kind.EFFECT_DISORDERED, Kind.OUTPUT_DISORDERED)
INVARIANT = (Kind.INVARIANT, Kind.BACKWARDS, Kind.OUTBOX)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest that at least this share of them does not exceed.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5), percentile([1.0, 2.0, 3.0, 4.0], 0.99)
    (2.0, 4.0)
    """
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


class Report:
    """All phases of a campaign in which nothing was wrong."""

    def __init__(self, results: Sequence[Result], seed: int, command: str) -> None:
        self._results, self._seed, self._command = results, seed, command
        self._faults = Counter(kind for each in results for kind in each.faults)
        self._ends = sum((each.ends for each in results), Counter[str]())
        self._recoveries: dict[str, list[float]] = {}
        for each in results:
            for recovery in each.recoveries:
                if recovery.seconds is not None:
                    self._recoveries.setdefault(recovery.kind, []).append(recovery.seconds)

    def figures(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        verdicts = [each.verdict for each in self._results]
        found = Counter(each.kind for verdict in verdicts for each in verdict.violations)
        recoveries = [seconds for each in self._recoveries.values() for seconds in each]
        longest = max((each.longest for each in self._results), key=lambda each: each.seconds)
        halted = [each.halted_after_seconds for each in self._results]
        return {
            "command": self._command,
            "seed": self._seed,
            "seconds": round(sum(each.seconds for each in self._results)),
            "messages": sum(each.messages for each in verdicts),
            "dead_letters": sum(each.dead_letters for each in verdicts),
            "faults": sum(self._faults.values()),
            "kinds": len(self._faults),
            "duplicated": sum(found[kind] for kind in DOUBLED),
            "lost": sum(found[kind] for kind in LOST),
            "disordered": sum(found[kind] for kind in DISORDERED),
            "invariant_samples": sum(each.samples for each in self._results),
            "invariant_broken": sum(found[kind] for kind in INVARIANT),
            "longest_stall_seconds": round(longest.seconds, 1),
            "recovery_seconds_p50": round(percentile(recoveries, 0.5), 2),
            "recovery_seconds_p99": round(percentile(recoveries, 0.99), 2),
            "workers_ended": dict(self._ends),
            "halted_after_seconds": [round(each, 1) for each in halted if each is not None],
            "by_kind": {kind: self._by_kind(kind) for kind, _ in self._faults.most_common()},
        }

    def sentence(self) -> str:
        """One line."""
        found = self.figures()
        return (
            f"{found['messages']:,} messages · {found['faults']} faults of {found['kinds']} kinds"
            f" · duplicated {found['duplicated']} · lost {found['lost']}"
            f" · disordered {found['disordered']}"
            f" · P ≤ K ≤ H broken {found['invariant_broken']} times in"
            f" {found['invariant_samples']:,} samples"
            f" · longest stall {found['longest_stall_seconds']} s"
            f" · recovery p50 {found['recovery_seconds_p50']} s,"
            f" p99 {found['recovery_seconds_p99']} s"
        )

    def print(self, console: Console) -> None:
        table = Table(title="faults", title_justify="left")
        for number, head in enumerate(HEADS):
            table.add_column(head, justify="right" if number else "left")
        for row in self._rows():
            table.add_row(*row)
        console.print(table)
        for line in self._remarks():
            console.print(line, highlight=False)
        console.print(self.sentence(), highlight=False, soft_wrap=True)

    def markdown(self) -> str:
        """The table and the figures, as they stand in docs/reliability.md."""
        lines = [f"```console\n$ {self._command}\n```", "", self.sentence() + ".", ""]
        lines += [f"| {' | '.join(HEADS)} |", "|---|--:|--:|--:|"]
        lines += [f"| {' | '.join(row)} |" for row in self._rows()]
        lines += ["", *(f"* {line}" for line in self._remarks())]
        return "\n".join(lines) + "\n"

    def _by_kind(self, kind: str) -> dict[str, Any]:
        seconds = self._recoveries.get(kind, [])
        if not seconds:
            return {"times": self._faults[kind]}
        return {
            "times": self._faults[kind],
            "recovery_seconds_p50": round(percentile(seconds, 0.5), 2),
            "recovery_seconds_p99": round(percentile(seconds, 0.99), 2),
        }

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for kind, times in self._faults.most_common():
            seconds = self._recoveries.get(kind, [])
            told = [f"{percentile(seconds, share):.2f} s" for share in (0.5, 0.99) if seconds]
            yield (kind, str(times), *(told or ["–", "–"]))

    def _remarks(self) -> Iterator[str]:
        found = self.figures()
        for each in self._results:
            yield (
                f"{each.phase.name}: {each.verdict.messages:,} messages in {each.seconds:.0f} s,"
                f" {len(each.faults)} faults, longest stall {each.longest.seconds:.1f} s"
            )
        for seconds in found["halted_after_seconds"]:
            yield (
                f"{FAILOVER}: all partitions halted with database-history-lost after {seconds} s,"
                " and went on by themselves when the old primary was back"
            )
        if self._ends:
            ends = ", ".join(f"{how} ({times})" for how, times in sorted(self._ends.items()))
            yield f"worker processes that ended by themselves, and were started again: {ends}"


def complaints(result: Result) -> Iterator[str]:
    """What is wrong with a phase."""
    yield from result.problems
    yield from summary(result.verdict.violations)
    if result.verdict.miscounted:
        yield f"{result.verdict.miscounted} counters are wrong"


def write_json(report: Report, file: Path) -> None:
    file.write_text(json.dumps(report.figures(), indent=2) + "\n")


def write_markdown(report: Report, file: Path) -> None:
    """Between the two marks of a page that is there."""
    before, _, rest = file.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n{report.markdown()}{END}{after}")
