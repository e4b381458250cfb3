"""A pipeline's reference, and one line for each way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from processor import Pipeline
from processor.errors import ConfigurationError
from processor.operations.loading import load_pipeline

GOOD = """
from processor import Pipeline
pipeline = Pipeline("orders")
@pipeline.handler("in")
def handle(value: bytes) -> None: ...
other = 7
empty = Pipeline("empty")
"""


@pytest.fixture(autouse=True)
def _in_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def write(name: str, text: str) -> None:
    Path(f"{name}.py").write_text(text)


def failure(reference: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_pipeline(reference)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_pipeline_is_found_in_the_current_directory() -> None:
    write("good_job", GOOD)
    found = load_pipeline("good_job:pipeline")
    assert isinstance(found, Pipeline)
    assert found.name == "orders"


@pytest.mark.parametrize("reference", ["", "module", "module:", ":attribute"])
def test_a_malformed_reference_shows_the_form(reference: str) -> None:
    assert "module:attribute" in failure(reference)


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    told = failure("no_such_job:pipeline")
    assert "no module 'no_such_job'" in told
    assert str(tmp_path) in told


def test_a_missing_module_inside_a_package_is_named() -> None:
    Path("some_package").mkdir()
    Path("some_package/__init__.py").touch()
    assert "no module 'some_package.jobs'" in failure("some_package.jobs:pipeline")


def test_a_missing_import_of_the_module_is_told_with_its_place() -> None:
    write("needy_job", "\n\nimport no_such_library\n")
    told = failure("needy_job:pipeline")
    assert "no_such_library" in told
    assert "needy_job.py, line 3" in told


def test_a_missing_attribute_names_the_pipelines_that_are_there() -> None:
    write("good_job_2", GOOD)
    told = failure("good_job_2:pipelin")
    assert "no 'pipelin'" in told
    assert "pipeline, empty" in told


def test_something_else_than_a_pipeline_is_refused() -> None:
    write("good_job_3", GOOD)
    assert "of type int, not a Pipeline" in failure("good_job_3:other")


def test_a_pipeline_without_handlers_is_refused() -> None:
    write("good_job_4", GOOD)
    assert "has no handler" in failure("good_job_4:empty")


def test_an_exception_is_told_with_type_message_file_and_line() -> None:
    write("broken_job", "x = 1\nraise RuntimeError('two\\nlines')\n")
    told = failure("broken_job:pipeline")
    assert "RuntimeError: two lines" in told
    assert "broken_job.py, line 2" in told


def test_an_error_of_registration_is_told_where_the_handler_stands() -> None:
    write("async_job", GOOD + "\n@pipeline.handler('b')\nasync def later(value: bytes): ...\n")
    told = failure("async_job:pipeline")
    assert "PipelineError" in told
    assert "async_job.py, line 9" in told


def test_a_syntax_error_is_told_with_its_place() -> None:
    write("torn_job", "def f(:\n")
    told = failure("torn_job:pipeline")
    assert "SyntaxError" in told
    assert "torn_job.py, line 1" in told


def test_a_module_that_exits_is_an_error_too() -> None:
    write("leaving_job", "raise SystemExit(3)")
    assert "SystemExit: 3" in failure("leaving_job:pipeline")
