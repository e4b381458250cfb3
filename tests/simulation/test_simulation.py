"""Seeds of the simulation, as many as ``make test`` has time for (``make simulate`` runs more)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation import redrive_mutants
from tests.simulation.mutants import MUTANTS, polling_republish
from tests.simulation.simulation import simulate
from tests.support.running import ROOT

SEEDS = int(os.environ.get("SEEDS", "2000"))
PLANTED = {
    "no-compare-and-set",
    "prune-by-h",
    "offsets-outside-the-transaction",
    "producer-reused-after-a-doubt",
    "silent-resends-ignored",
    "handlers-run-again-for-a-publish",
    "k-read-unstable",
    "plain-reading-after-an-unknown-commit",
    "kafka-ends-before-postgres",
    "metadata-without-a-member",
    "fresh-metadata-after-a-rejoin",
    "batch-kept-across-a-revoke",
    "assigned-at-the-end",
    "topic-id-not-checked",
    "outbox-order-lost",
    "dropped-without-seeking-back",
    "parked-flows-on",
    "early-outputs-kept-across-a-run",
    "one-producer-kept-after-a-doubt",
    "token-not-compared",
    "row-count-not-read",
    "p-raised-from-belief",
    "outbox-read-before-the-row-lock",
    "dead-letters-without-headers",
    "copied-rows-dropped",
    "asked-before-the-batch-before-landed",
    "outputs-of-a-message-swapped",
    "republished-without-its-key",
    "republished-at-another-time",
    "a-recreated-topic-starts-anew",
    "letters-replayed-whatever-their-state",
    "a-key-released-by-the-batch-that-drains-it",
    "a-key-released-by-the-batch-that-parks-it",
    "parked-without-asking",
    "queues-not-locked",
    "drained-past-a-letter-that-has-failed",
    "new-keys-forgotten",
    "parked-keys-not-read-at-recovery",
    "handled-behind-a-batch-that-parks",
    "later-messages-of-a-batch-not-parked",
}


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
def test_no_seed_loses_doubles_or_halts_anything() -> None:
    done = simulation("--seeds", str(SEEDS))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_no_seed_replays_anything_twice_or_out_of_order() -> None:
    done = simulation("--redrive", "--seeds", str(SEEDS // 5))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("world", [[], ["--redrive"]], ids=["plain", "redrive"])
def test_a_seed_goes_the_same_way_every_time(world: list[str]) -> None:
    first, second = (simulation("--seed", "5", *world) for _ in range(2))
    assert first.returncode == 0, first.stdout
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) > 200


@pytest.mark.timeout(300)
def test_planted_bugs_are_caught() -> None:
    """A harness that finds nothing proves nothing. By the seeds that ``make mutants`` has found;
    a change of the engine or of the fakes may need others.
    """
    done = simulation("--mutants", "--known")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_snapshot_is_what_refuses_a_republish_that_has_polled() -> None:
    """What fresh metadata lets pass is no bug of its own."""
    seed = MUTANTS["fresh-metadata-after-a-rejoin"].seed
    with polling_republish(fresh=False):
        assert simulate(seed).violations == ()


def test_every_bug_that_is_worth_planting_is_there() -> None:
    assert redrive_mutants.__name__, "they are among them once they are imported"
    assert set(MUTANTS) == PLANTED
