"""The plugin's fixtures on real servers: a user's tests, run by their own pytest."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
import pytest

from devstack import Kafka, Postgres
from tests.conftest import TopicFactory
from tests.support.plugin import (
    examples,
    make_documented_project,
    make_project,
    run_project,
)

pytest_plugins = ["pytester"]

TESTS = """
    import os

    import psycopg
    import pytest

    from processor.testing import PipelineTestError
    from shop import Gate, Purchase, gates, purchases

    seen = []

    def test_both_stores(running_pipeline):
        test = running_pipeline("shop:pipeline")
        test.insert(purchases, {"user_id": 0, "amount": 0.0})
        for n in range(1, 4):
            event = Purchase(user_id=n, amount=n / 2)
            sent = test.send(EVENTS, event, key=str(n), headers=[("a", "b")])
        test.send(EVENTS, Purchase(user_id=9, amount=-1.0), key="9", timestamp=1_700_000_000_000)
        assert [row["user_id"] for row in test.rows(purchases)] == [0, 1, 2, 3]
        assert [(each.key, each.json()) for each in test.outputs(RECEIPTS)] == [
            (b"1", {"paid": 0.5}), (b"2", {"paid": 1.0}), (b"3", {"paid": 1.5}),
        ]
        [letter] = test.dead_letters()
        assert (letter.error, letter.reason) == ("ValueError", "negative")
        assert letter.offset == sent.offset + 1
        assert test.halted() == []

    def test_the_next_one_sees_nothing_of_it(running_pipeline, processor_postgres):
        test = running_pipeline("shop:pipeline", batch_max_messages=1)
        assert (test.rows(purchases), test.outputs(RECEIPTS), test.dead_letters()) == ([], [], [])
        test.send(EVENTS, Purchase(user_id=7, amount=1.0))
        assert [each.json() for each in test.outputs(RECEIPTS)] == [{"paid": 1.0}]
        seen.append(processor_postgres)

    def test_a_crash(running_pipeline):
        test = running_pipeline("shop:pipeline")
        for n in range(300):
            test.send(EVENTS, Purchase(user_id=n, amount=1.0))
            if n == 150:
                test.crash()
        assert [row["user_id"] for row in test.rows(purchases)] == list(range(300))
        assert len(test.outputs(RECEIPTS)) == 300
        assert test.log.read_text().count("worker-ended") == 1

    def test_a_halt(running_pipeline):
        test = running_pipeline("shop:pipeline")
        test.send(EVENTS, Gate(name=1))
        test.send(EVENTS, Purchase(user_id=1, amount=1.0))
        with pytest.raises(PipelineTestError, match="has halted in front of .* the gate is shut"):
            test.rows(purchases)
        [halted] = test.halted()
        assert (halted.reason, halted.waits) == ("handler-halt", False)
        assert test.rows(purchases) == []
        test.resume()
        assert len(test.halted()) == 1
        test.insert(gates, {"name": 1})
        test.resume()
        assert test.halted() == []
        assert len(test.rows(purchases)) == 1

    def test_it_stops(running_pipeline):
        test = running_pipeline("shop:pipeline")
        assert test.stop() == 0

    def test_a_service_that_does_not_start(running_pipeline):
        told = "(?s)is not seen how it takes its partitions .exit 2.*start_from is 'nonsense'"
        with pytest.raises(PipelineTestError, match=told):
            running_pipeline("shop:pipeline", start_from="nonsense")

    def test_a_pipeline_that_is_not_there(running_pipeline):
        with pytest.raises(PipelineTestError, match="module 'shop' has no 'pipelin'"):
            running_pipeline("shop:pipelin")

    def test_databases_are_dropped(processor_postgres):
        assert processor_postgres not in seen
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(seen[0])
"""


@pytest.fixture
def servers(kafka: Kafka, postgres: Postgres) -> Mapping[str, str]:
    return {
        "PROCESSOR_TEST_KAFKA": kafka.bootstrap_servers,
        "PROCESSOR_TEST_DATABASE_URL": postgres.url,
    }


def databases(postgres: Postgres) -> list[str]:
    with psycopg.connect(postgres.url) as connection:
        found = connection.execute("SELECT datname FROM pg_database").fetchall()
    return [name for (name,) in found if name.startswith("processor_test_")]


@pytest.mark.timeout(180)
def test_a_users_tests(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    servers: Mapping[str, str],
    postgres: Postgres,
    topic: TopicFactory,
) -> None:
    prefix = topic("plugin-")
    make_project(pytester, prefix)
    names = f"EVENTS, RECEIPTS = {prefix + 'events'!r}, {prefix + 'receipts'!r}\n"
    pytester.makepyfile(names + "\n".join(line[4:] for line in TESTS.splitlines()))
    result = run_project(pytester, monkeypatch, servers)
    result.assert_outcomes(passed=8)
    assert databases(postgres) == []


@pytest.mark.timeout(120)
def test_the_example_of_the_documentation(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, servers: Mapping[str, str]
) -> None:
    make_documented_project(pytester)
    [example] = [each for each in examples() if "running_pipeline" in each]
    imported = "from shop.pipeline import Purchase, purchases"
    (pytester.path / "test_example.py").write_text(f"{imported}\n\n{example}")
    run_project(pytester, monkeypatch, servers).assert_outcomes(passed=1)


@pytest.mark.timeout(180)
def test_tests_of_several_processes_take_turns(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    servers: Mapping[str, str],
    topic: TopicFactory,
) -> None:
    prefix = topic("turns-")
    make_project(pytester, prefix)
    pytester.makepyfile(
        f"""
        import pytest
        from shop import Purchase, purchases

        @pytest.mark.parametrize("n", range(4))
        def test_alone(running_pipeline, n):
            test = running_pipeline("shop:pipeline")
            for _ in range(5):
                test.send("{prefix}events", Purchase(user_id=n, amount=1.0))
            assert [row["user_id"] for row in test.rows(purchases)] == [n] * 5
        """
    )
    pytester.makeini("[pytest]\naddopts = -n 2")
    result = run_project(pytester, monkeypatch, servers)
    result.assert_outcomes(passed=4)
    assert "2 workers" in result.stdout.str()
