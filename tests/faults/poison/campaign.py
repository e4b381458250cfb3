"""The campaign: bad messages among good ones, an audit, repair and redrive, another audit."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from devstack.waiting import wait_while_moving
from tests.faults.poison.audit import Verdict, audit_redriven, audit_set_aside
from tests.faults.poison.killer import Killer
from tests.faults.poison.pipeline import NUMBERS
from tests.faults.poison.plan import Plan
from tests.faults.poison.redriving import Redriving
from tests.faults.poison.rest import Rest
from tests.faults.poison.stage import REFERENCE, Stage
from tests.faults.poison.traffic import Traffic

STILL_SECONDS = 60.0
TELL_SECONDS = 5.0

Tell = Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What came of a campaign."""

    plan: Plan
    set_aside: Verdict
    redriven: Verdict
    kills: int
    commands: int
    """Redrives, those that were broken off included."""
    broken_off: int
    states: dict[str, int]
    """Of the numbers' letters."""
    problems: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return self.set_aside.fine and self.redriven.fine and not self.problems


def run(plan: Plan, tell: Tell, logs: Path | None = None) -> Result:
    """One campaign, on a stage of its own.

    :param logs: where the logs are copied to.
    :raises UnauditableError: when nothing can be said of it.
    """
    with Stage() as stage:
        try:
            return Campaign(stage, plan, tell).result()
        finally:
            if logs is not None:
                stage.keep_logs(logs)


class Campaign:
    """On a stage that is set up."""

    def __init__(self, stage: Stage, plan: Plan, tell: Tell) -> None:
        self._stage, self._plan, self._tell = stage, plan, tell
        self._rng = Random(plan.seed)
        self._traffic = Traffic(stage.servers)
        self._redriving = Redriving(stage, self._rng, plan.redrive_rate, plan.late_after)
        self._rest = Rest(stage, self._traffic)
        self._told = time.monotonic()
        self._kills = 0

    def result(self) -> Result:
        with ExitStack() as last:
            last.callback(self._traffic.abandon)
            self._stage.wait_running()
            self._consume()
            self._tell(f"reading both stores: {self._letters()}")
            set_aside = audit_set_aside(self._stage, self._plan)
            self._redrive()
            self._tell("reading both stores")
            redriven = audit_redriven(self._stage, self._plan)
            problems = [*self._redriving.problems, *self._ended()]
        commands = self._redriving.commands
        return Result(
            self._plan,
            set_aside,
            redriven,
            self._kills,
            commands.total(),
            sum(n for how, n in commands.items() if how.startswith("broken")),
            dict(self._stage.states(NUMBERS)),
            problems,
        )

    def _consume(self) -> None:
        """The first wave, until it is handled; workers are killed while it is."""
        self._traffic.start(self._plan.first_wave(), self._plan.rate)
        with self._killing():
            while self._traffic.is_sending:
                self._progress()
            self._traffic.finish()
            self._wait_handled()
        self._wait_rest()

    def _redrive(self) -> None:
        """Repair, replay, the second wave beside it, and the third one after it."""
        wave = (self._plan.keys * self._plan.steps) / self._plan.redrive_seconds
        self._redriving.repair(self._plan.kinds())
        self._tell(f"{self._redriving.edited} letters edited; the rest is mended")
        self._traffic.start(self._plan.wave(1), wave)
        with self._killing():
            self._redriving.run(lambda: self._tell(self._letters()), self._is_sending)
            self._traffic.finish()
            self._traffic.start(self._plan.wave(2), 5 * wave)
            self._traffic.finish()
            self._wait_handled()
        self._wait_rest()

    def _is_sending(self) -> bool:
        return self._traffic.is_sending

    def _killing(self) -> ExitStack:
        """Workers are killed within the block."""
        block = ExitStack()
        killer = Killer(self._stage, self._rng, self._plan.kill_seconds)
        block.callback(lambda: self._count(killer))
        block.enter_context(killer)
        return block

    def _count(self, killer: Killer) -> None:
        self._kills += killer.kills

    def _wait_handled(self) -> None:
        wait_while_moving(self._seen, self._rest.is_handled, STILL_SECONDS, "all to be handled")

    def _wait_rest(self) -> None:
        wait_while_moving(self._seen, self._rest.is_reached, STILL_SECONDS, "P = K = H = end")

    def _seen(self) -> object:
        if time.monotonic() - self._told > TELL_SECONDS:
            self._progress()
        return self._rest.levels()

    def _progress(self) -> None:
        time.sleep(0.1)
        self._stage.service.child.check()
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            handled, sent = self._rest.handled(), self._traffic.delivered
            self._tell(f"{handled:,} of {sent:,} messages; {self._letters()}")

    def _letters(self) -> str:
        states = self._stage.states()
        return f"letters: {', '.join(f'{count:,} {state}' for state, count in states.items())}"

    def _ended(self) -> list[str]:
        """What must not be at the end, beside violations."""
        problems = [f"halted: {line}" for line in self._stage.halts()]
        code = self._stage.service.drain()
        if code:
            problems.append(f"the service drained with {code}")
        verifying = self._stage.command("verify", REFERENCE)
        out, err = verifying.communicate()
        if verifying.returncode:
            problems.append(f"verify ended with {verifying.returncode}: {out}{err}")
        return problems
