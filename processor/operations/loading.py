"""Find a pipeline by its reference, as ``pipelines.user_events:pipeline``.

Whatever is wrong with the reference or the module becomes one line that names it.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from processor.errors import ConfigurationError
from processor.pipeline import Pipeline

_PACKAGE = f"{Path(__file__).resolve().parent.parent}{os.sep}"


def load_pipeline(reference: str) -> Pipeline:
    """Import the module and take the pipeline from it; the current directory is searched first.

    :raises ConfigurationError: naming what is missing or what went wrong, with file and line.
    """
    pipeline, module = load_attribute(reference)
    if not isinstance(pipeline, Pipeline):
        kind = type(pipeline).__name__
        raise ConfigurationError(f"{reference!r} is of type {kind}, not a Pipeline{_hint(module)}")
    pipeline.validate()
    pipeline.reference = reference
    return pipeline


def load_attribute(reference: str) -> tuple[object, ModuleType]:
    """Import the module; returns what the reference names in it, and the module.

    :raises ConfigurationError: naming what is missing or what went wrong, with file and line.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(
            f"{reference!r} is not of the form module:attribute,"
            " as in pipelines.user_events:pipeline"
        )
    module = _import(module_name)
    if not hasattr(module, attribute):
        raise ConfigurationError(f"module {module_name!r} has no {attribute!r}{_hint(module)}")
    return getattr(module, attribute), module


def _import(name: str) -> ModuleType:
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"there is no module {error.name!r} in {directory} or among the installed packages"
            ) from error
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> ConfigurationError:
    text = " ".join(str(error).split()) or "no message"
    return ConfigurationError(
        f"importing {name!r} failed: {type(error).__name__}: {text}{_place(error)}"
    )


def _place(error: BaseException) -> str:
    """File and line of the user's code that raised or that called what raised."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return ""  # its text has them
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_PACKAGE, "<frozen importlib"))
        and Path(frame.filename).parent.name != "importlib"
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _hint(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Pipeline)]
    return f"; its pipelines: {', '.join(names)}" if names else "; it holds no pipeline"
