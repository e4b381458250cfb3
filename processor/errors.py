"""Everything that can go wrong, on one screen.

::

    ProcessorError                 base of all errors of this package
    |-- ConfigurationError         a setting, a pipeline or its import is wrong (exit 2)
    |   `-- PipelineError          a handler, table or topic is declared wrongly (exit 2)
    |-- Unreachable                Kafka or Postgres did not answer in time (exit 3)
    |-- SchemaMismatch             the database's schema revision does not fit (exit 4)
    |-- Refused                    a remedy does not fit what was found (exit 1)
    |-- SlotTaken                  another process runs in this slot (exit 6)
    |-- DecodeError                a message could not be decoded (dead letter)
    |-- OutputTooLarge             an output exceeds what its topic takes (dead letter)
    `-- HandlerSignal              what a handler raises to say what to do
        |-- Retry                  try this message again later
        |-- Reject                 dead-letter this message now
        `-- Halt                   stop this partition until somebody resumes it

Any other exception of a handler is tried again a bounded number of times and then
dead-lettered.
"""

from __future__ import annotations

from enum import IntEnum
from math import isnan


class Exit(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    VERDICT = 1
    USAGE = 2
    UNREACHABLE = 3
    SCHEMA = 4
    ALL_HALTED = 5
    SLOT_TAKEN = 6
    BUG = 70
    STUCK = 75
    """A worker gave itself up (a hanging call, a fenced member) and is started again; as the
    service's own code: its drain was cut short, and the next start recovers what is left."""


class ProcessorError(Exception):
    """Base of all errors of this package. Its text is one line a user can act on."""

    exit_code = Exit.BUG


class ConfigurationError(ProcessorError):
    """A setting is missing, unknown or not allowed; the text names it and the cure."""

    exit_code = Exit.USAGE


class PipelineError(ConfigurationError):
    """A pipeline is declared wrongly, or a handler uses what was not declared.

    Raised at registration where it can be; raised while a handler runs it halts the partition,
    because a bad deployment must not dead-letter a topic.
    """


class Unreachable(ProcessorError):
    """Kafka or Postgres did not answer within the limit."""

    exit_code = Exit.UNREACHABLE


class SchemaMismatch(ProcessorError):
    """The database's schema is older than this version needs, or too new for it."""

    exit_code = Exit.SCHEMA


class SlotTaken(ProcessorError):
    """Another live process runs under the same group, instance and slot."""

    exit_code = Exit.SLOT_TAKEN


class Refused(ProcessorError):
    """A remedy does not fit what was found; the text says what would."""

    exit_code = Exit.VERDICT


class DecodeError(ProcessorError):
    """A message's value does not have the declared form."""


class UnknownType(DecodeError):
    """A message's type tag is none that a handler is registered for."""


class OutputTooLarge(ProcessorError):
    """An output is larger than its topic's ``max.message.bytes``."""


class HandlerSignal(ProcessorError):
    """Base of the exceptions by which a handler says what should happen."""


class Retry(HandlerSignal):
    """Try this message again, not before ``after`` seconds have passed (bounded attempts).

    :raises ValueError: when ``after`` is not a number of seconds.
    """

    def __init__(self, reason: str = "", *, after: float = 1.0) -> None:
        super().__init__(reason or "retry requested")
        if isinstance(after, bool) or not isinstance(after, (int, float)) or isnan(after):
            raise ValueError(f"Retry(after={after!r}) is not a number of seconds")
        self.after = float(after)


class Reject(HandlerSignal):
    """Dead-letter this message now, with this reason."""


class Halt(HandlerSignal):
    """Stop this message's partition until ``processor resume``; nothing of it is applied."""
