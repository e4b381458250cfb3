"""Which messages are parked: their key waits for a dead letter to be dealt with.

The owner of a partition is the only one that parks its keys, so it knows all of them; others
release them. Therefore it asks, under the lock that a release takes as well, before it parks more.
"""

from __future__ import annotations

from collections.abc import Mapping

from processor.engine.batch import Partition, Slice
from processor.engine.partitions import Partitions
from processor.engine.triggers import key_digest
from processor.transaction import Session


class Parking:
    """Of a worker's partitions."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions

    def concerned(self, each: Slice) -> set[bytes]:
        """Keys of these messages that are parked as far as is known."""
        owned = self._partitions.owned.get(each.partition)
        if owned is None or not owned.parked:
            return set()
        return owned.parked.intersection(raw.key() for raw in each.messages)

    def confirmed(
        self, session: Session, concerned: Mapping[Partition, set[bytes]]
    ) -> dict[Partition, dict[bytes, int]]:
        """Those that still are, with the letter that each waits for; they stay so until the
        transaction ends.
        """
        places = {
            (self._row_id(partition), key_digest(key)): (partition, key)
            for partition, keys in concerned.items()
            for key in keys
        }
        if not places:
            return {}
        ids, digests = zip(*places, strict=True)
        parked: dict[Partition, dict[bytes, int]] = {}
        for row_id, digest, queue in session.ask(_PARKED, (list(ids), list(digests))):
            partition, key = places.pop((row_id, digest))
            parked.setdefault(partition, {})[key] = queue
        for partition, key in places.values():
            self._partitions[partition].parked.discard(key)
        return parked

    def _row_id(self, partition: Partition) -> int:
        row = self._partitions[partition].row
        assert row is not None, "a running partition has been recovered"
        return row.id


_PARKED = """
SELECT k.progress_id, k.key_digest, k.letter_id
FROM processor.parked_keys k
JOIN unnest(%s::bigint[], %s::text[]) AS wanted (id, digest)
    ON k.progress_id = wanted.id AND k.key_digest = wanted.digest
ORDER BY k.progress_id, k.key_digest FOR UPDATE OF k
"""
