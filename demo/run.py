"""One demo from the first line to the last."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, suppress

from rich.console import Console

from demo import display, plain, verdict
from demo.acts import Options, Outcome, play
from demo.look_around import look_around
from demo.stage import Stage, forget_settings
from demo.story import Story
from devstack import StackError

SMALLEST = (80, 20)
"""Columns and rows; on less the picture would be cut off."""


def run(options: Options) -> int:
    """The exit status."""
    forget_settings()
    console = Console(highlight=False, markup=False, emoji=False)
    story = Story(options.seconds)
    stage = Stage(options.workers)
    try:
        with stage:
            with _shown(story, console):
                outcome = play(stage, story, options)
            code = conclude(outcome, console)
            if code != verdict.EXIT_FINE:
                stage.keep_logs()
            if options.keep:
                # Here Ctrl-C is the way to end it: the verdict's exit status stands.
                with suppress(KeyboardInterrupt):
                    look_around(stage, console)
    except StackError as error:
        print(f"the demo failed: {stage.where_kept(str(error))}", file=sys.stderr)
        code = verdict.EXIT_BAD
    if stage.kept_logs:
        print(f"the logs are in {stage.kept_logs}", file=sys.stderr)
    return code


def conclude(outcome: Outcome, console: Console) -> int:
    """Says what was found; the exit status."""
    code = verdict.exit_code(outcome)
    for line in verdict.explanation(outcome):
        console.print(line, soft_wrap=True)
    style = "bold green" if code == verdict.EXIT_FINE else "bold red"
    console.print(verdict.closing_line(outcome), style=style, soft_wrap=True)
    return code


def _shown(story: Story, console: Console) -> AbstractContextManager[None]:
    columns, rows = SMALLEST
    roomy = console.width >= columns and console.height >= rows
    if sys.stdout.isatty() and not console.is_dumb_terminal and roomy:
        return display.live(story, console)
    return plain.lines(story)
