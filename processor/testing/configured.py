"""A worker's settings in a test: the defaults, and what the test says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from processor.settings import Database, Settings
from processor.testing.results import PipelineTestError


class MemorySettings(Settings):
    """Neither a file nor the environment has a say in a test."""

    model_config = SettingsConfigDict(toml_file=None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings_of(given: Mapping[str, Any]) -> Settings:
    """:raises PipelineTestError: for what is no setting, or a value that is none."""
    if not given:
        return _defaults()
    try:
        return MemorySettings(**{**_fixed(), **given})
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise PipelineTestError(f"settings: {told}") from None


@cache
def _defaults() -> Settings:
    return MemorySettings(**_fixed())


def _fixed() -> dict[str, Any]:
    url = SecretStr("postgresql://memory/")
    return {"database": Database(url=url), "instance": "memory"}
