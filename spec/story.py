"""A counterexample of TLC, shortened: who did what, and what it changed in the stores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_STATE = re.compile(r"^State (\d+): <(\w+).*>\n((?:.+\n)+)", re.M)
_FIELD = re.compile(r"^/\\ (\w+) = ", re.M)
_TOKEN = re.compile(r'\s*("[^"]*"|-?\d+|\w+|<<|>>|\|->|[\[\]{},])')
_OF_A_WORKER = ("pc", "job", "bel", "read", "cur", "prod", "txn")

State = dict[str, Any]


def told(output: str) -> str:
    """One line for each state: its number, worker and action, and what changed."""
    lines: list[str] = []
    before: State = {}
    for number, action, body in _STATE.findall(output):
        after = _state(body)
        if before:
            who = _actor(before, after)
            what = ", ".join(_changes(before, after, who))
            lines.append(f"{number:>4}. {who:<2}{action:<14} {what}".rstrip())
        before = after
    return "\n".join(lines)


def _state(body: str) -> State:
    parts = _FIELD.split(body)[1:]
    return {name: parse(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def parse(text: str) -> Any:
    """A value as TLC prints it: records are dicts, sequences and sets are lists."""
    return _value(iter(_TOKEN.findall(text)))


def _value(tokens: Iterator[str], first: str | None = None) -> Any:
    token = first or next(tokens)
    if token == "[":
        return _record(tokens)
    if token in ("<<", "{"):
        return _items(tokens, {"<<": ">>", "{": "}"}[token])
    if token in ("TRUE", "FALSE"):
        return token == "TRUE"
    return token[1:-1] if token[0] == '"' else int(token)


def _record(tokens: Iterator[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for token in tokens:
        if token == "]":
            break
        if token != ",":
            next(tokens)  # |->
            found[token] = _value(tokens)
    return found


def _items(tokens: Iterator[str], end: str) -> list[Any]:
    found = []
    for token in tokens:
        if token == end:
            break
        if token != ",":
            found.append(_value(tokens, token))
    return found


def _actor(before: State, after: State) -> str:
    """The worker whose own state, or else whose transaction, changed; none when several did."""
    for names in (_OF_A_WORKER[:4], _OF_A_WORKER[4:]):
        changed = {w for n in names for w in after[n] if before[n][w] != after[n][w]}
        if changed:
            return changed.pop() if len(changed) == 1 else ""
    return ""


def _changes(before: State, after: State, who: str) -> Iterator[str]:
    old, new = _facts(before), _facts(after)
    for name, value in new.items():
        if value != old[name]:
            yield f"{name} = {value}"
    if who:
        yield from _of_worker(before, after, who)
    for worker, txn in after["txn"].items():
        if txn != before["txn"][worker]:
            yield f"{worker}'s transaction: {_transaction(txn)}"


def _of_worker(before: State, after: State, who: str) -> Iterator[str]:
    job, pc = after["job"][who], after["pc"][who]
    if job["kind"] != before["job"][who]["kind"] and job["kind"] != "none":
        yield f"{job['kind']} [{job['first']}, {job['next']})"
    if pc != before["pc"][who] and pc != "job":
        yield f"{who}: {pc}"


def _facts(state: State) -> dict[str, object]:
    """What a sceptic looks at."""
    db, k = state["db"], state["k"]
    return {
        "H": db["h"],
        "P": db["p"],
        "K": k["at"],
        "token": db["token"],
        "ended tokens": _braces(f"{each['token']}@{each['end']}" for each in db["old"]),
        "K's token": k["token"],
        "effects": _runs(db["eff"]),
        "outbox": _braces(f"[{r['first']}, {r['next']})" for r in db["box"]),
        "VISIBLE": _runs(state["out"]),
        "late": _braces(f"{r['kind']} of {r['w']}" for r in state["late"]),
        "owner": state["owner"],
        "COMMIT under way": state["pg"]["by"],
        "backup H": state["backup"]["h"],
    }


def _runs(marks: list[dict[str, Any]]) -> str:
    return "<" + " ".join(f"{mark['at']}{mark['by']}{mark['token']}" for mark in marks) + ">"


def _braces(items: Any) -> str:
    return "{" + " ".join(str(item) for item in items) + "}"


def _transaction(txn: dict[str, Any]) -> str:
    if txn["st"] != "open":
        return str(txn["st"])
    offset = "no offset" if txn["off"]["at"] < 0 else f"K = {txn['off']['at']}"
    return f"open, outputs {_runs(txn['outs'])}, {offset}"
