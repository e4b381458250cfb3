"""The plugin for pytest where no server is: in memory, or with a sentence that has the cure."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.plugin import make_project, run_project

pytest_plugins = ["pytester"]

HOLDER = """
import subprocess, sys
subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()
"""


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter has after running it."""
    told = "import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {told}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_product_does_not_load_its_testing_kit() -> None:
    found = loaded_by(
        "import processor, processor.cli, processor.engine.assembly, processor.operations.service"
    )
    assert "processor.engine.worker" in found
    assert not {each for each in found if each.startswith(("processor.testing", "pytest"))}
    assert "greenlet" not in loaded_by("import processor.engine.worker")


def test_unused_it_loads_next_to_nothing() -> None:
    before = loaded_by("import pytest")
    more = loaded_by("import pytest, processor.testing.pytest_plugin") - before
    assert "processor.testing.pytest_plugin" in more
    assert {each for each in more if each.startswith("processor")} == {
        "processor",
        "processor.testing",
        "processor.testing.pytest_plugin",
    }
    assert len(more) < 10, more


def test_without_greenlet_the_cure_is_told() -> None:
    code = "import sys; sys.modules['greenlet'] = None; from processor.testing import PipelineTest"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = "tests in memory need greenlet: pip install 'processor[testing]'"
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {told}"


def test_a_service_ends_with_the_test_run() -> None:
    """Whoever holds the pipe is killed; the command is told, and what it still says is read."""
    command = "trap 'echo told; exit' TERM; echo ready; while :; do sleep 0.01; done"
    guarded = [sys.executable, "-m", "processor.testing.guard", "sh", "-c", command]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *guarded], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    holder.kill()
    assert holder.stdout.read() == "told\n"
    holder.wait()
    holder.stdout.close()


def test_a_guarded_command_tells_its_exit_code() -> None:
    guarded = [sys.executable, "-m", "processor.testing.guard", "sh", "-c", "exit 5"]
    with subprocess.Popen(guarded, stdin=subprocess.PIPE) as process:
        assert process.wait(30) == 5


def test_pipelines_in_memory(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(pytester)
    pytester.makepyfile(
        """
        from processor.testing import PipelineTestError
        from shop import Purchase, pipeline, purchases

        made = []

        def test_one(pipeline_test):
            test = pipeline_test(pipeline)
            test.send("events", Purchase(user_id=1, amount=9.5), key="1")
            assert test.rows(purchases) == [{"user_id": 1, "amount": 9.5}]
            assert [each.json() for each in test.outputs("receipts")] == [{"paid": 9.5}]
            made.append(test)

        def test_two(pipeline_test):
            one, two = pipeline_test(pipeline, seed=1), pipeline_test(pipeline, partitions=3)
            one.send("events", Purchase(user_id=1, amount=9.5))
            assert (len(one.rows(purchases)), len(two.rows(purchases))) == (1, 0)

        def test_they_are_closed():
            [test] = made
            try:
                test.send("events", Purchase(user_id=1, amount=9.5))
            except PipelineTestError as error:
                assert "closed" in str(error)
            else:
                raise AssertionError("it is open")
        """
    )
    run_project(pytester, monkeypatch, {}).assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("fixture", "sentence"),
    [
        (
            "processor_kafka",
            "this test needs a real Kafka: set PROCESSOR_TEST_KAFKA, or processor_test_kafka in"
            " pytest's configuration, to localhost:9092 for example (docker compose up -d kafka)",
        ),
        (
            "processor_postgres",
            "this test needs a real Postgres: set PROCESSOR_TEST_DATABASE_URL, or"
            " processor_test_database_url in pytest's configuration, to"
            " postgresql://processor:processor@localhost:5432/processor for example"
            " (docker compose up -d postgres)",
        ),
    ],
)
def test_without_a_server_the_test_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, fixture: str, sentence: str
) -> None:
    make_project(pytester)
    pytester.makepyfile(f"def test_it({fixture}): pass")
    result = run_project(pytester, monkeypatch, {})
    result.assert_outcomes(errors=1)
    assert sentence in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("fixture", "name", "value", "sentence"),
    [
        ("processor_kafka", "kafka", "127.0.0.1:1", "Kafka at 127.0.0.1:1"),
        (
            "processor_postgres",
            "database_url",
            "postgresql://127.0.0.1:1/x",
            "no Postgres answers (",
        ),
        ("processor_postgres", "database_url", "127.0.0.1:1", "it must be postgresql://user@host"),
    ],
)
def test_a_server_that_is_away_is_named(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    fixture: str,
    name: str,
    value: str,
    sentence: str,
) -> None:
    make_project(pytester)
    pytester.makepyfile(f"def test_it({fixture}): pass")
    pytester.makeini(f"[pytest]\nprocessor_test_{name} = {value}")
    result = run_project(pytester, monkeypatch, {})
    result.assert_outcomes(errors=1)
    assert sentence in result.stdout.str()
