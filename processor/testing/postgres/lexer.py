"""Statements as tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|/\*.*?\*/)
  | (?P<named>%\((?P<key>\w+)\)[sbt])
  | (?P<param>%[sbt])
  | (?P<body>\$\$.*?\$\$)
  | (?P<quoted>"(?:[^"]|"")+")
  | (?P<string>'(?:[^']|'')*')
  | (?P<number>\d+(?:\.\d+)?)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<sign>::|->>|<=|>=|<>|!=|\|\||[-+*/(),.;=<>\[\]])
    """,
    re.X | re.S,
)


class UnknownStatement(NotImplementedError):
    """The fake does not understand it: it has to learn it."""


@dataclass(frozen=True, slots=True)
class Token:
    """``kind`` is the group's name in the pattern; ``text`` is lower case for words."""

    kind: str
    text: str
    value: Any = None
    raw: str = ""

    def is_(self, *texts: str) -> bool:
        return self.kind in ("word", "sign") and self.text in texts


END = Token("end", "")


def tokens_of(statement: str) -> list[Token]:
    """:raises UnknownStatement: naming what is no token."""
    found: list[Token] = []
    at = parameters = 0
    while at < len(statement):
        match = _TOKEN.match(statement, at)
        if match is None:
            raise UnknownStatement(f"{statement[at : at + 20]!r} in: {statement}")
        at = match.end()
        kind, raw = match.lastgroup or "", match.group()
        if kind == "space":
            continue
        if kind == "param":
            found.append(Token("param", raw, parameters, raw))
            parameters += 1
        elif kind in ("named", "key"):
            found.append(Token("param", raw, match.group("key"), raw))
        elif kind == "quoted":
            found.append(Token("name", raw[1:-1].replace('""', '"'), raw=raw))
        elif kind == "string":
            found.append(Token("string", raw, raw[1:-1].replace("''", "'"), raw))
        elif kind == "number":
            found.append(Token("number", raw, float(raw) if "." in raw else int(raw), raw))
        else:
            found.append(Token(kind, raw.lower() if kind == "word" else raw, raw=raw))
    return found


def split(tokens: list[Token]) -> list[list[Token]]:
    """The statements of a text, without the semicolons."""
    statements: list[list[Token]] = [[]]
    for token in tokens:
        if token.is_(";"):
            statements.append([])
        else:
            statements[-1].append(token)
    return [each for each in statements if each]
