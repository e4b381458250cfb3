"""Dead letters on real servers: set aside once, shown, repaired, and handled again exactly once."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, Finished
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres
from devstack.waiting import wait_until
from processor.engine.triggers import replays_topic
from processor.errors import Exit
from tests.support.brokers import read_to_end, wait_settled
from tests.support.pipelines import Act
from tests.support.running import ROOT, WAIT_SECONDS, Scene, numbered

PARTITIONS = 12
REFERENCE = "tests.support.pipelines:letters"
_partitions = itertools.count()


class Letters(Scene):
    """With the topics that the pipeline of this file has besides, and its commands."""

    def __init__(
        self, kafka: Kafka, postgres: Postgres, admin: AdminClient, folder: Path, partitions: int
    ) -> None:
        super().__init__(kafka, postgres, admin, folder, partitions=partitions)
        self.create({self.keyed: partitions, self.dead: 1})
        self.command = CommandLine(
            ROOT, kafka__bootstrap_servers=kafka.bootstrap_servers, database__url=self.url
        )

    def run(self, *arguments: str) -> Finished:
        return self.command("dead-letters", *arguments, "--group", self.group)

    def replay(self, *arguments: str) -> dict[str, Any]:
        found = self.run("replay", *arguments, "--json")
        assert found.code in (Exit.OK, Exit.VERDICT), found.err
        return dict(found.json)

    def letters(self, partition: int, topic: str | None = None) -> list[dict[str, Any]]:
        return self.dead_letters(partition, topic or self.acts)

    def states(self, partition: int, topic: str | None = None) -> list[str]:
        return [each["state"] for each in self.letters(partition, topic)]

    def wait_letters(self, partition: int, count: int, topic: str | None = None) -> None:
        """They are there, and their partition has published up to the last of them."""
        topic = topic or self.acts
        wait_until(
            lambda: (
                len(self.letters(partition, topic)) >= count
                and (self.levels(partition, topic).p or 0)
                > self.letters(partition, topic)[-1]["offset"]
            ),
            WAIT_SECONDS,
            f"{count} letters",
        )

    def _is_published(self, partition: int, topic: str) -> bool:
        published = self.levels(partition, topic).p or 0
        return bool(published > self.letters(partition, topic)[-1]["offset"])

    def numbers(self, partition: int, topic: str | None = None) -> list[int]:
        """In Postgres, in the order in which they took effect."""
        found = self.observed.rows(
            "SELECT n FROM effects WHERE topic = %s AND partition = %s ORDER BY ctid",
            topic or self.acts,
            partition,
        )
        return [row["n"] for row in found]

    def published(self, *numbers: int) -> list[int]:
        """Those of these numbers that are in the output topic, in its order."""
        wait_settled(self.admin, self.output)
        found = read_to_end(self.kafka.bootstrap_servers, self.output)
        told = [json.loads(message.value())["n"] for message in found]
        return [n for n in told if n in numbers]


@pytest.fixture(scope="module")
def shared(
    kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Letters]:
    folder = tmp_path_factory.mktemp("letters")
    scene = Letters(kafka, postgres, admin, folder, PARTITIONS)
    with scene.service(reference=REFERENCE, workers=2, topic_check_seconds="0.5") as service:
        yield scene
        service.child.check()
    scene.close()


@pytest.fixture
def partition() -> int:
    return next(_partitions)


def test_a_letter_is_handled_again_exactly_once(
    shared: Letters, partition: int, tmp_path: Path
) -> None:
    mark = str(tmp_path / "mended")
    base = partition * 1_000
    shared.produce(
        partition, Act(base), Act(base + 1, "mended", mark), Act(base + 2), Act(base + 3, "fail")
    )
    shared.wait_letters(partition, 2)
    letters = shared.letters(partition)
    assert [letter["attempts"] for letter in letters] == [3, 3]
    ids = [str(letter["id"]) for letter in letters]
    dry = shared.run("replay", *ids, "--dry-run", "--json").json
    assert (dry["ready"], dry["refused"]) == ([int(each) for each in ids], [])
    assert shared.states(partition) == ["failed", "failed"]

    done = shared.replay(*ids)
    assert (done["sent"], done["replayed"], done["failed"]) == (2, 0, 2)
    assert [letter["attempts"] for letter in shared.letters(partition)] == [6, 6]
    assert [letter["replays"] for letter in shared.letters(partition)] == [1, 1]

    Path(mark).touch()
    done = shared.replay(*ids)
    assert (done["replayed"], done["failed"]) == (1, 1)
    assert shared.states(partition) == ["replayed", "failed"]
    again = shared.replay(*ids)
    assert (again["sent"], again["replayed"]) == (1, 0)
    assert "replayed already" in again["refused"][0]["why"]
    assert shared.numbers(partition) == [base, base + 2, base + 1]
    assert sorted(shared.published(base, base + 1, base + 2)) == [base, base + 1, base + 2]


def test_the_handler_sees_the_message_as_it_came_or_as_it_was_repaired(
    shared: Letters, partition: int, tmp_path: Path
) -> None:
    base = partition * 1_000
    shared.produce(partition, b'{"type": "act", "n": "seven"}', Act(base + 1))
    shared.wait_letters(partition, 1)
    [letter] = shared.letters(partition)
    repaired = tmp_path / "repaired.json"
    repaired.write_text(json.dumps({"type": "act", "n": base}))
    done = shared.replay(str(letter["id"]), "--edit", str(repaired))
    assert done["replayed"] == 1
    rows = shared.observed.rows('SELECT topic, partition, "offset" FROM effects WHERE n = %s', base)
    assert rows == [{"topic": shared.acts, "partition": partition, "offset": 0}]
    shown = shared.run("show", str(letter["id"]), "--json").json
    assert shown["value"] == '{"type": "act", "n": "seven"}'
    assert json.loads(shown["replacement"])["n"] == base
    assert shown["state"] == "replayed"
    assert shown["requested_by"] == shown["resolved_by"]
    actions = shared.observed.rows(
        "SELECT action, detail FROM processor.audit WHERE detail -> 'ids' @> %s::jsonb ORDER BY id",
        json.dumps([letter["id"]]),
    )
    assert [row["action"] for row in actions] == ["dead-letter-edit", "dead-letter-replay"]


def test_a_letter_of_a_batch_handler_is_handled_alone(shared: Letters) -> None:
    shared.produce(0, *numbered(1, 2), Act(3, "fail"), *numbered(4), topic=shared.batches)
    shared.wait_letters(0, 1, shared.batches)
    [letter] = shared.letters(0, shared.batches)
    repaired = shared.folder / "batch.json"
    repaired.write_text('{"type": "act", "n": 3}')
    done = shared.replay(str(letter["id"]), "--edit", str(repaired))
    assert done["replayed"] == 1
    assert shared.numbers(0, shared.batches) == [1, 2, 4, 3]


def test_a_letter_that_postgres_finds_leaves_nothing_until_it_succeeds(
    shared: Letters, partition: int
) -> None:
    base = partition * 1_000
    name = f"switch-{partition}"
    shared.produce(partition, Act(base), Act(base + 1, "asked", name), Act(base + 2))
    shared.wait_letters(partition, 1)
    [letter] = shared.letters(partition)
    assert shared.replay(str(letter["id"]))["failed"] == 1
    place = f"1 of {shared.acts}"
    assert shared.observed.rows("SELECT * FROM totals WHERE name = %s", place) == []
    shared.observed.execute("INSERT INTO switches VALUES (%s)", name)
    assert shared.replay(str(letter["id"]))["replayed"] == 1
    assert shared.observed.value("SELECT total FROM totals WHERE name = %s", place) == 1
    shared.observed.execute("DELETE FROM totals WHERE name = %s", place)


def test_letters_are_chosen_by_what_they_are(shared: Letters, partition: int) -> None:
    base = partition * 1_000
    shared.produce(
        partition,
        *(Act(base + n, "fail", f"kind one, number {n}") for n in range(3)),
        *(Act(base + n, "fail", f"another kind, number {n}") for n in range(2)),
    )
    shared.wait_letters(partition, 5)
    kinds = shared.run("list", "--kinds", "--json").json
    mine = {each["fingerprint"]: each for each in kinds if "kind" in each["reason"]}
    assert sorted(each["letters"] for each in mine.values()) == [2, 3]
    fingerprint = next(each for each, kind in mine.items() if kind["letters"] == 3)
    dry = shared.run("replay", "--fingerprint", fingerprint, "--dry-run", "--json").json
    assert dry["letters"] == 3
    done = shared.run("discard", "--fingerprint", fingerprint, "--reason", "a test", "--json")
    assert done.json["letters"] == 3
    assert shared.states(partition) == ["discarded"] * 3 + ["failed"] * 2
    listed = shared.run("list", "--fingerprint", fingerprint, "--json").json
    assert listed == []
    listed = shared.run("list", "--fingerprint", fingerprint, "--state", "all", "--json").json
    assert len(listed) == 3
    refused = shared.run("discard", str(listed[0]["id"]))
    assert refused.code == Exit.VERDICT
    assert "discarded already" in refused.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("replay",), "name letters by ID"),
        (("replay", "1", "2", "--edit", "x"), "--edit takes one ID"),
        (("replay", "1", "--edit", "no-such-file"), "No such file"),
        (("list", "--since", "yesterday"), "ISO 8601"),
        (("list", "--state", "lost"), "give failed, parked"),
        (("show", "999999999"), "has no dead letter"),
        (("replay", "999999999"), "has no dead letter 999999999"),
        (("discard", "999999999", "999999998"), "has no dead letter 999999998, 999999999"),
        (("replay", "shop.pipeline:pipeline"), "given as --pipeline shop.pipeline:pipeline"),
        (("replay", "1", "--edit", "/dev/null"), "it is empty"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(
    shared: Letters, arguments: tuple[str, ...], says: str
) -> None:
    found = shared.run(*arguments)
    assert found.code == Exit.USAGE
    assert says in found.error


def test_a_letter_that_comes_back_and_back_is_left_alone(shared: Letters, partition: int) -> None:
    shared.produce(partition, Act(partition * 1_000, "fail"))
    shared.wait_letters(partition, 1)
    [letter] = shared.letters(partition)
    number = str(letter["id"])
    shared.observed.execute(
        "UPDATE processor.dead_letters SET replays = 5 WHERE id = %s", letter["id"]
    )
    found = shared.run("replay", number)
    assert found.code == Exit.VERDICT
    assert "came back 5 times" in found.err
    assert shared.replay(number, "--most-replays", "6")["failed"] == 1


def test_the_topic_of_dead_letters_tells_of_each_once(shared: Letters, partition: int) -> None:
    base = partition * 1_000
    shared.produce(partition, Act(base), Act(base + 1, "reject"), b"{")
    shared.wait_rest(partition)
    wait_settled(shared.admin, shared.dead)
    mine = []
    for message in read_to_end(shared.kafka.bootstrap_servers, shared.dead):
        headers = dict(message.headers() or [])
        if headers["processor.errors.partition"] == str(partition).encode() and (
            headers["processor.errors.topic"] == shared.acts.encode()
        ):
            mine.append((message.value(), headers["processor.errors.exception"]))
    assert [each for _, each in mine] == [b"Reject", b"DecodeError"]
    assert mine[1][0] == b"{"


class TestParkedKeys:
    """The order of a key holds in both stores, before, while and after it is drained."""

    @staticmethod
    def fill(shared: Letters, partition: int, mark: str) -> int:
        base = 100_000 + partition * 1_000
        shared.produce(partition, Act(base), topic=shared.keyed, key=b"a")
        shared.produce(partition, Act(base + 1, "mended", mark), topic=shared.keyed, key=b"a")
        for n in range(2, 30):
            key = b"a" if n % 2 else b"b"
            shared.produce(partition, Act(base + n), topic=shared.keyed, key=key)
        shared.wait_letters(partition, 15, shared.keyed)
        return base

    def test_later_messages_of_the_key_wait_and_follow_in_order(
        self, shared: Letters, partition: int, tmp_path: Path
    ) -> None:
        mark = str(tmp_path / "mended")
        base = self.fill(shared, partition, mark)
        odd = [base + n for n in range(1, 30, 2)]
        even = [base + n for n in range(2, 30, 2)]
        assert shared.states(partition, shared.keyed) == ["failed"] + ["parked"] * 14
        assert shared.numbers(partition, shared.keyed) == [base, *even]
        head, parked, *_ = shared.letters(partition, shared.keyed)
        assert parked["parked_behind"] == head["id"]
        refused = shared.run("replay", str(parked["id"]))
        assert "it is parked" in refused.err

        Path(mark).touch()
        assert shared.replay(str(head["id"]))["replayed"] == 1
        shared.produce(partition, Act(base + 31), topic=shared.keyed, key=b"a")
        wait_until(
            lambda: len(shared.numbers(partition, shared.keyed)) == 31, WAIT_SECONDS, "all of it"
        )
        mine = [n for n in shared.numbers(partition, shared.keyed) if n in (*odd, base + 31)]
        assert mine == [*odd, base + 31]
        assert shared.published(base, *odd, base + 31) == [base, *odd, base + 31]
        wait_until(lambda: not self.parked(shared, partition), WAIT_SECONDS, "the key's release")
        shared.produce(partition, Act(base + 33), topic=shared.keyed, key=b"a")
        shared.wait_rest(partition, shared.keyed)
        assert shared.numbers(partition, shared.keyed)[-1] == base + 33
        assert set(shared.states(partition, shared.keyed)) == {"replayed"}

    def test_after_a_discard_they_follow_as_well_until_one_fails(
        self, shared: Letters, partition: int, tmp_path: Path
    ) -> None:
        mark = str(tmp_path / "mended")
        base = self.fill(shared, partition, mark)
        shared.produce(partition, Act(base + 31, "mended", mark), topic=shared.keyed, key=b"a")
        shared.produce(partition, Act(base + 33), topic=shared.keyed, key=b"a")
        shared.wait_letters(partition, 17, shared.keyed)
        head = shared.letters(partition, shared.keyed)[0]
        assert shared.run("discard", str(head["id"])).code == 0
        expected = ["discarded", *["replayed"] * 14, "failed", "parked"]
        wait_until(
            lambda: shared.states(partition, shared.keyed) == expected, WAIT_SECONDS, "the drain"
        )
        Path(mark).touch()
        failed = shared.letters(partition, shared.keyed)[-2]
        assert shared.replay(str(failed["id"]))["replayed"] == 1
        wait_until(lambda: not self.parked(shared, partition), WAIT_SECONDS, "the key's release")
        odd = [base + n for n in range(3, 35, 2)]
        mine = [n for n in shared.numbers(partition, shared.keyed) if n in odd]
        assert mine == odd
        assert shared.published(*odd) == odd

    @staticmethod
    def parked(shared: Letters, partition: int) -> list[dict[str, Any]]:
        row = shared.row(partition, shared.keyed)
        assert row is not None
        return shared.observed.rows(
            "SELECT * FROM processor.parked_keys WHERE progress_id = %s", row["id"]
        )


def test_attempts_and_waits_outlast_the_worker(
    kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path
) -> None:
    scene = Letters(kafka, postgres, admin, tmp_path, 2)
    tries = tmp_path / "tries"
    try:
        with scene.service(reference=REFERENCE) as service:
            scene.produce(0, Act(1), Act(2, "later", str(tries)), Act(3))
            scene.wait_state(0, "backing-off", "retry")
            service.child.kill()
        with scene.service(reference=REFERENCE):
            found = scene.wait_state(0, "backing-off", "retry")
            assert "offset 1" in found["detail"]
            scene.produce(1, Act(4))
            scene.wait_rest(1)
            scene.wait_rest(0)
        assert scene.numbers(0) == [1, 3]
        [letter] = scene.letters(0)
        moments = [float(line) for line in tries.read_text().split()]
        assert (letter["attempts"], len(moments)) == (3, 3)
        assert moments[1] - moments[0] >= 1.5
        assert moments[2] - moments[1] >= 3.0
        lasted = letter["last_failed_at"] - letter["first_failed_at"]
        assert lasted.total_seconds() >= 4.5
    finally:
        scene.close()


def test_verify_agrees_with_letters_that_were_replayed_parked_and_discarded(
    shared: Letters,
) -> None:
    """The last of the file: of all that the others have left."""
    found = subprocess.run(
        [sys.executable, "-m", "processor", "verify", REFERENCE, "--json"],
        cwd=ROOT,
        env={**os.environ, **shared.environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == Exit.OK, found.stdout + found.stderr
    report = json.loads(found.stdout)
    topic = replays_topic(shared.group)
    replays = [each for each in report["partitions"] if each["topic"] == topic]
    assert len(replays) == 12
    assert sum(each["handled"] for each in replays) > 30
    assert sum(each["outputs_found"] for each in replays) > 30
    assert report["others"]["of_earlier_histories"] == 0
