"""`python -m spec.check`: has TLC check the protocol, and shows that each guard is needed.

A proof is a run that finds no error. A mutant is the small configuration without one guard; TLC
has to find a counterexample to it. TLC comes through Maven, like the other jars.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack import StackError, parts
from devstack.parts.jars import class_path
from spec.story import told

SPEC = Path(__file__).parent
MODULE = SPEC / "Processor.tla"
WITHOUT = SPEC / "without"
PROOFS = ("small", "deep", "liveness", "large")
MOST_SECONDS = 1800.0
NO_ERROR, SAFETY, LIVENESS = 0, 12, 13  # TLC's exit codes

_STATES = re.compile(r"^(\d+) states generated, (\d+) distinct states found", re.M)
_DEPTH = re.compile(r"^The depth of the complete state graph search is (\d+)", re.M)
_INVARIANT = re.compile(r"^Error: Invariant (\w+) is violated", re.M)


class CheckFailed(Exception):
    """TLC came to no verdict."""


@dataclass(frozen=True, slots=True)
class Result:
    """What TLC found."""

    name: str
    holds: bool
    violated: str | None
    """The invariant, or the property."""
    length: int
    """States of the counterexample; 0 without one."""
    states: int
    distinct: int
    diameter: int
    seconds: float
    output: str = dataclasses.field(repr=False)


def guards() -> list[str]:
    """What can be taken out, in the module's order: a guard, or a guard with another story."""
    known = sorted(file.stem for file in WITHOUT.glob("*.cfg"))
    declared = _constants(MODULE.read_text())
    return [name for guard in declared for name in known if name.split("-")[0] == guard]


def check(name: str, *, workers: int = 1, seconds: float = MOST_SECONDS) -> Result:
    """Check ``spec/<name>.cfg``.

    :raises CheckFailed: when TLC comes to no verdict.
    """
    return _run(name, (SPEC / f"{name}.cfg").read_text(), workers, seconds)


def check_without(guard: str, *, workers: int = 1, seconds: float = MOST_SECONDS) -> Result:
    """Check the small configuration without a guard.

    :raises CheckFailed: when TLC comes to no verdict.
    """
    return _run(guard, config_without(guard), workers, seconds)


def config_without(guard: str) -> str:
    """The small configuration with ``spec/without/<guard>.cfg`` laid over it.

    Safety alone, unless the file names a property.
    """
    text = re.sub(r"(?m)^PROPERTIES\n(    .*\n)+", "", (SPEC / "small.cfg").read_text())
    for line in (WITHOUT / f"{guard}.cfg").read_text().splitlines():
        if line.startswith("PROPERTY "):
            text += f"{line}\n"
        if "=" not in line or line.startswith("\\*"):
            continue
        constant = line.split("=")[0].strip()
        text, found = re.subn(rf"(?m)^    {constant} = .*$", f"    {line}", text)
        if found != 1:
            raise CheckFailed(f"without/{guard}.cfg sets {constant}, which small.cfg does not")
    return text


def _constants(module: str) -> Iterator[str]:
    declared = module[module.index("(* The guards.") : module.index("VARIABLES")]
    for line in declared.splitlines():
        if match := re.match(r"    (\w+),?\s+\\\*", line):
            yield match[1]


def _run(name: str, config: str, workers: int, seconds: float) -> Result:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tlc-") as folder:
        # TLC wants both beside each other, and leaves files there.
        (Path(folder) / "check.cfg").write_text(config)
        (Path(folder) / MODULE.name).write_bytes(MODULE.read_bytes())
        try:
            done = subprocess.run(
                _command(workers),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                preexec_fn=_step_back,
            )
        except subprocess.TimeoutExpired:
            raise CheckFailed(f"{name}: no verdict within {seconds:g} s") from None
    return _result(name, done.returncode, done.stdout, time.monotonic() - started)


def _step_back() -> None:
    """Whatever else runs on this machine goes first."""
    os.nice(10)


def _command(workers: int) -> list[str]:
    return [
        *(
            str(parts.java().program),
            "-XX:+UseParallelGC",
            "-XX:ParallelGCThreads=1",
            "-XX:TieredStopAtLevel=1",
            "-Xmx2g",
        ),
        "-Djava.io.tmpdir=.",
        *("-cp", class_path(parts.checker_jars()), "tlc2.TLC"),
        *("-workers", str(workers), "-metadir", "states", "-fp", "0", "-lncheck", "final"),
        *("-config", "check.cfg", MODULE.name),
    ]


def _result(name: str, code: int, output: str, seconds: float) -> Result:
    if code not in (NO_ERROR, SAFETY, LIVENESS):
        tail = "\n".join(output.splitlines()[-30:])
        raise CheckFailed(f"{name}: TLC ended with {code}\n{tail}")
    violated = None
    if code != NO_ERROR:
        invariant = _INVARIANT.search(output)
        violated = invariant[1] if invariant else "liveness"
    counted = _STATES.findall(output)[-1]
    depth = _DEPTH.search(output)
    return Result(
        name=name,
        holds=code == NO_ERROR,
        violated=violated,
        length=len(re.findall(r"(?m)^State \d+: <", output)),
        states=int(counted[0]),
        distinct=int(counted[1]),
        diameter=int(depth[1]) if depth else 0,
        seconds=round(seconds, 1),
        output=output,
    )


def _proof_line(result: Result) -> str:
    verdict = "holds" if result.holds else f"VIOLATED: {result.violated}"
    return (
        f"{result.name:<20} {verdict:<28} {result.states:>10,} states  "
        f"{result.distinct:>10,} distinct  diameter {result.diameter:>3}  {result.seconds:6.1f} s"
    )


def _mutant_line(result: Result) -> str:
    if result.holds:
        return f"{result.name:<26} SURVIVES             -  {result.seconds:6.1f} s"
    return f"{result.name:<26} {result.violated:<20} {result.length:>2}  {result.seconds:6.1f} s"


def _as_json(result: Result) -> dict[str, object]:
    fields = dataclasses.asdict(result)
    del fields["output"]
    return fields


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spec.check", description=__doc__)
    parser.add_argument("proofs", nargs="*", help=f"configurations in spec/; default {PROOFS[0]}")
    parser.add_argument("--guards", action="store_true", help="take out each guard in turn")
    parser.add_argument("--without", metavar="GUARD", choices=guards(), help="take out this guard")
    parser.add_argument("--story", action="store_true", help="tell the counterexample")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=MOST_SECONDS, help="bound of each run")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 when a proof fails or a mutant survives."""
    options = _parser().parse_args(arguments)
    chosen = [options.without] if options.without else guards() if options.guards else []
    proofs = options.proofs or ([] if chosen else [PROOFS[0]])
    found: dict[str, list[Result]] = {"proofs": [], "guards": []}
    try:
        for name in proofs:
            result = check(name, workers=options.workers, seconds=options.seconds)
            found["proofs"].append(result)
            _say(options, _proof_line(result), None if result.holds else result)
        if chosen:
            _say(options, f"{'without':<26} {'violates':<20} states of the counterexample", None)
        for name in chosen:
            result = check_without(name, workers=options.workers, seconds=options.seconds)
            found["guards"].append(result)
            _say(options, _mutant_line(result), result if options.story else None)
    except (CheckFailed, StackError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({k: [_as_json(r) for r in v] for k, v in found.items()}, indent=2))
    return int(any(not r.holds for r in found["proofs"]) or any(r.holds for r in found["guards"]))


def _say(options: argparse.Namespace, line: str, result: Result | None) -> None:
    if options.json:
        return
    print(line, flush=True)
    if result is not None:
        print(told(result.output), flush=True)


if __name__ == "__main__":
    sys.exit(main())
