"""The letters are repaired and replayed by the product's own command, which is killed as well."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random

import msgspec
from pydantic import SecretStr

from processor.operations import database
from processor.operations.dead_letters import Redrive
from processor.settings import Database as DatabaseSettings
from processor.settings import Settings
from tests.faults.poison.pipeline import GROUP, NUMBERS, Kind, Number, Step
from tests.faults.poison.stage import REFERENCE, Stage, mend

PATIENCE_SECONDS = (0.8, 3.2)
"""How long a command may run before it is broken off; the first second of it are imports."""
WAIT_SECONDS = 3
MOST_COMMANDS = 80
MOST_REPLAYS = 1_000
SHOWN = 5
FINE = (0, 1)
"""1: something has failed again, or waits."""


class Redriving:
    """Until every letter is replayed."""

    def __init__(self, stage: Stage, rng: Random, rate: float, late_after: int) -> None:
        self._stage, self._rng, self._rate = stage, rng, rate
        self._late_after = late_after
        self.edited = 0
        self.commands: Counter[str] = Counter()
        """By how they ended."""
        self.problems: list[str] = []

    def repair(self, kinds: Mapping[int, Kind]) -> None:
        """All but what is mended late: code, data and schema, and the messages by edits.

        :param kinds: the bad numbers.
        """
        mend(self._stage, (Kind.RAISES, Kind.SLOW, Kind.CONSTRAINT))
        letters = self._stage.rows(
            "SELECT id, topic, partition, key, value FROM processor.dead_letters"
            " WHERE state = 'failed' ORDER BY id"
        )
        truncated = {
            whole[:-2]: whole
            for number, kind in kinds.items()
            if kind == Kind.UNDECODABLE
            for whole in [msgspec.json.encode(Number(number, kind))]
        }
        replacements = {}
        for number, topic, _, _, value in letters:
            whole = truncated.get(bytes(value), bytes(value))
            repaired = _repaired(topic, whole)
            if repaired is not None:
                replacements[number] = repaired
        self._edit(replacements)

    def run(self, tell: Callable[[], None], is_sending: Callable[[], bool]) -> None:
        """Commands, one after the other, until nothing waits and no more comes.

        :param tell: called after each command.
        :raises RuntimeError: when they do not get there.
        """
        for number in range(MOST_COMMANDS):
            if number == self._late_after:
                mend(self._stage, (Kind.LATE,))
            self._command()
            tell()
            if number >= self._late_after and not is_sending() and self._is_done():
                return
        raise RuntimeError(f"after {MOST_COMMANDS} commands: {self._left()}")

    def _edit(self, replacements: Mapping[int, bytes]) -> None:
        """The first one by the command, the others as it does it."""
        [(first, value), *others] = replacements.items()
        edited = self._stage.folder / "edited.json"
        edited.write_bytes(value)
        arguments = (str(first), "--edit", str(edited), "--wait", "0")
        done = self._replay(*arguments)
        out, err = done.communicate()
        if done.returncode not in FINE:
            self.problems.append(f"replay --edit ended with {done.returncode}: {out}{err}")
        settings = Settings(database=DatabaseSettings(url=SecretStr(self._stage.url)))
        with database.session(settings) as connection:
            redrive = Redrive(connection, GROUP)
            for number, repaired in others:
                redrive.edit(number, repaired)
        self.edited = len(replacements)

    def _command(self) -> None:
        """One redrive of all that waits, broken off unless it is fast."""
        options = ("--rate", f"{self._rate:g}", "--most-replays", str(MOST_REPLAYS))
        running = self._replay("--all", "--wait", str(WAIT_SECONDS), *options)
        try:
            _, err = running.communicate(timeout=self._rng.uniform(*PATIENCE_SECONDS))
        except subprocess.TimeoutExpired:
            how = self._rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))
            running.send_signal(how)
            _, err = running.communicate()
            self.commands[f"broken off by {how.name}"] += 1
            return
        self.commands[f"exit {running.returncode}"] += 1
        if running.returncode not in FINE:
            self.problems.append(f"replay ended with {running.returncode}: {err}")

    def _replay(self, *arguments: str) -> subprocess.Popen[str]:
        return self._stage.command("dead-letters", "replay", *arguments, "--pipeline", REFERENCE)

    def _left(self) -> str:
        """Which messages still wait."""
        waiting = self._stage.rows(
            'SELECT state, topic, partition, "offset" FROM processor.dead_letters'
            " WHERE state <> 'replayed' ORDER BY id LIMIT %s",
            SHOWN,
        )
        told = [f"{topic}/{n} at {offset} is {state}" for state, topic, n, offset in waiting]
        return "; ".join((str(dict(self._stage.states())), *told))

    def _is_done(self) -> bool:
        [[parked]] = self._stage.rows("SELECT count(*) FROM processor.parked_keys")
        return set(self._stage.states()) == {"replayed"} and not parked


def _repaired(topic: str, value: bytes) -> bytes | None:
    """A value that is fine; None where the message is not to blame."""
    known = msgspec.json.decode(value, type=Number if topic == NUMBERS else Step)
    if known.kind not in (Kind.UNDECODABLE, Kind.TOO_LARGE):
        return None
    known.kind = Kind.GOOD
    return msgspec.json.encode(known)
