"""Guards of replays and parked keys, taken out one at a time (as in ``mutants.py``)."""

from __future__ import annotations

from typing import Any
from unittest import mock

from processor.engine import batches, letter_rows, overlap, replays
from processor.engine.admission import Admission
from processor.engine.batch import Handled
from processor.engine.batches import Batches
from processor.engine.locked_rows import LockedRows
from processor.engine.parking import Confirmed, Parking
from processor.engine.replays import Replays
from tests.simulation.mutants import Patch, mutant, nothing, together, without


@mutant(seed=1, redrives=True)
def letters_replayed_whatever_their_state() -> Patch:
    done = letter_rows._REPLAYED.replace("AND state IN ('pending', 'parked')", "")
    return together(
        without(replays, "_PENDING", "l.state = 'pending'"),
        mock.patch.object(letter_rows, "_REPLAYED", done),
    )


@mutant(seed=0, redrives=True)
def a_key_released_by_the_batch_that_drains_it() -> Patch:
    real = replays._queue

    def still(*given: Any) -> Any:
        found = real(*given)
        found.moves = False
        return found

    return mock.patch.object(replays, "_queue", still)


@mutant(seed=4, redrives=True)
def a_key_released_by_the_batch_that_parks_it() -> Patch:
    real = Replays.read

    def blind(self: Replays, session: Any, triggers: Any, _growing: Any) -> Any:
        return real(self, session, triggers)

    return mock.patch.object(Replays, "read", blind)


@mutant(seed=4, redrives=True)
def parked_without_asking() -> Patch:
    def believed(_self: Parking, _session: Any, concerned: Any) -> Confirmed:
        return Confirmed({at: keys for at, keys in concerned.items() if keys})

    return mock.patch.object(Parking, "confirmed", believed)


@mutant(seed=10, redrives=True)
def queues_not_locked() -> Patch:
    return mock.patch.object(
        replays, "_LOCK_QUEUES", replays._LOCK_QUEUES.replace("FOR UPDATE", "")
    )


@mutant(seed=1, redrives=True)
def drained_past_a_letter_that_has_failed() -> Patch:
    found = replays._BLOCKED.replace("('failed', 'pending')", "('pending')")
    return mock.patch.object(replays, "_BLOCKED", found)


@mutant(seed=0, redrives=True)
def new_keys_forgotten() -> Patch:
    real = Batches._believe

    def forgetful(self: Batches, handled: Handled, was_sent: bool) -> None:
        handled.new_keys.clear()
        real(self, handled, was_sent)

    return mock.patch.object(Batches, "_believe", forgetful)


@mutant(seed=0, redrives=True)
def parked_keys_not_read_at_recovery() -> Patch:
    return mock.patch.object(LockedRows, "_read_parked_keys", nothing)


@mutant(seed=14, redrives=True)
def handled_behind_a_batch_that_parks() -> Patch:
    def careless(handled: Handled) -> bool:
        return bool(handled.stop or handled.rest)

    return together(
        mock.patch.object(batches, "matters_behind", careless),
        mock.patch.object(overlap, "matters_behind", careless),
    )


@mutant(seed=5, redrives=True)
def later_messages_of_a_batch_not_parked() -> Patch:
    real = Admission._is_parked

    def of_earlier_batches(self: Admission, raw: Any, handled: Handled, arrived: Any) -> bool:
        return raw.key() in arrived.parked and real(self, raw, handled, arrived)

    return mock.patch.object(Admission, "_is_parked", of_earlier_batches)
