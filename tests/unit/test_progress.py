"""How far a long command is, on a terminal and elsewhere; never on stdout."""

from __future__ import annotations

import sys

import pytest

from processor.cli import progress
from processor.cli.progress import progress_bar, sending_bar
from tests.support.terminal import at_terminal

READING = """
from processor.cli.progress import progress_bar
with progress_bar() as progress:
    {0}
    progress.stage("reading the inputs", 400)
    progress.moved(100)
    progress.stage("events/3: reading the outputs", 3000)
    progress.moved(1000)
print("done")
"""
NOTHING = """
from processor.cli.progress import progress_bar
with progress_bar():
    pass
print("done")
"""
SENDING = """
from processor.cli.progress import sending_bar
with sending_bar(4000) as show:
    show(1000)
print("done")
"""
ERASE_LINE = "\x1b[2K"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)


def on_terminal(script: str, term: str = "xterm") -> tuple[str, str]:
    return at_terminal([sys.executable, "-c", script], {}, term)


@pytest.mark.usefixtures("at_once")
def test_lines_tell_the_stage_and_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as shown:
        shown.stage("reading the inputs", 4_000)
        shown.moved(1_000)
        shown.moved(500)
        shown.stage("events/3: reading the outputs", 30)
        shown.moved(7)
    assert capsys.readouterr() == (
        "",
        "reading the inputs: 1,000 of 4,000 offsets\n"
        "reading the inputs: 1,500 of 4,000 offsets\n"
        "events/3: reading the outputs: 7 of 30 offsets\n",
    )


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("count", "told"), [(4_000, "1,000 of 4,000 events sent\n"), (0, "1,000 events sent\n")]
)
def test_lines_of_what_is_sent(capsys: pytest.CaptureFixture[str], count: int, told: str) -> None:
    with sending_bar(count) as show:
        show(1_000)
    assert capsys.readouterr() == ("", told)


def test_what_is_done_at_once_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as shown:
        shown.stage("reading the inputs", 4)
        shown.moved(4)
    with sending_bar(4) as show:
        show(4)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_of_the_stage_and_it_is_gone_at_the_end() -> None:
    out, drawn = on_terminal(READING.format("pass"))
    assert out == "done\n"
    assert "reading the inputs" in drawn
    last = drawn.rsplit("events/3: reading the outputs", 1)[1]
    assert "1000/3000" in last
    assert last.rstrip().endswith(ERASE_LINE)
    assert "inputs" not in last


def test_what_is_piped_while_a_bar_is_drawn_stays_on_stdout() -> None:
    out, drawn = on_terminal(READING.format("print('from a handler')"))
    assert out == "from a handler\ndone\n"
    assert "from a handler" not in drawn


def test_a_command_that_reads_nothing_draws_nothing() -> None:
    assert on_terminal(NOTHING) == ("done\n", "")


def test_a_terminal_that_cannot_draw_gets_lines() -> None:
    assert on_terminal(READING.format("pass"), term="dumb") == ("done\n", "")


def test_what_is_sent_has_a_bar_as_well() -> None:
    out, drawn = on_terminal(SENDING)
    assert out == "done\n"
    assert "1000/4000" in drawn
