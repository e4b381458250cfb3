"""Guards that are taken out of the engine on purpose: the campaign must catch each of them.

``make chaos PLANTED=republish MINUTES=1`` has to end with 1. A campaign that finds nothing says
something only as long as it finds these.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

VARIABLE = "CHAOS_PLANTED"


def without_compare_and_set() -> None:
    """A batch moves H wherever it is, whoever owns the partition by now."""
    from processor.engine import store

    for guard in ("p.next_offset = b.first", "p.token = b.token", "p.lineage = b.lineage"):
        assert guard in store._COMPARE_AND_SET
        store._COMPARE_AND_SET = store._COMPARE_AND_SET.replace(guard, "true")


def without_republish() -> None:
    """Recovery lets K follow, and forgets the outputs."""
    from processor.engine.catchup import Catchup
    from processor.engine.recovery import make_metadata

    def offsets_only(self: Any, each: Any, snapshot: object) -> None:
        metadata = make_metadata(each.row.lineage, each.row.token)
        offsets = [(each.owned.partition, each.entries[-1].next, metadata)]
        self._publisher.send([], offsets, snapshot)
        self._publisher.commit()

    Catchup._send_again = offsets_only  # type: ignore[method-assign]


def without_retirement() -> None:
    """A producer whose requests may have been sent twice is used again."""
    from processor.engine import clients

    clients.RESEND_MARKS = ("no line begins like this",)  # type: ignore[assignment]


def with_rollback_forgotten() -> None:
    """What was written of a batch in doubt is committed before it is handled again."""
    from processor.engine.store import Store

    def commit_first(self: Any) -> None:
        if self._transaction is not None:
            self._database.commit()
        self._finished()

    Store.rollback = commit_first  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "compare-and-set": without_compare_and_set,
    "republish": without_republish,
    "retirement": without_retirement,
    "rollback": with_rollback_forgotten,
}


def plant() -> None:
    """What the variable asks for; called by each worker as it imports the pipeline."""
    name = os.environ.get(VARIABLE)
    if name:
        BUGS[name]()
