"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from processor.errors import ConfigurationError

if TYPE_CHECKING:
    from processor.pipeline import Pipeline
    from processor.settings import Settings

_HELP = "module:attribute, as pipelines.user_events:pipeline"

Reference = Annotated[str, typer.Argument(metavar="PIPELINE", help=_HELP)]
OptionalReference = Annotated[str | None, typer.Argument(metavar="PIPELINE", help=_HELP)]
ReferenceOption = Annotated[str | None, typer.Option("--pipeline", metavar="PIPELINE", help=_HELP)]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="NAME", help="The consumer group, instead of a pipeline."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def find_group(
    settings: Settings, reference: str | None, group: str | None
) -> tuple[str, Pipeline | None]:
    """The consumer group that is meant, and its pipeline if that was named.

    :raises ConfigurationError: when neither or both were given.
    """
    if (reference is None) == (group is None):
        raise ConfigurationError("give a pipeline (module:attribute) or --group NAME")
    if reference is None:
        assert group is not None
        return group, None
    from processor.operations.loading import load_pipeline

    pipeline = load_pipeline(reference)
    return settings.group_id or pipeline.name, pipeline


def find_place(text: str) -> tuple[str, int]:
    """
    >>> find_place("events/3")
    ('events', 3)

    :raises ConfigurationError: for anything else.
    """
    topic, _, number = text.rpartition("/")
    if not topic or not (number.isascii() and number.isdecimal()):
        raise ConfigurationError(f"--partition {text!r}: give it as TOPIC/NUMBER")
    return topic, int(number)
