"""The fake of Postgres: what the contracts, which it shares with the real one, do not say."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, Text

import processor.engine
import processor.revisions
from processor.engine import ledger as ledger_module
from processor.engine import store as store_module
from processor.engine.failures import DatabaseDoubt, OwnerChanged
from processor.engine.recovery import Row
from processor.schema import REVISIONS
from processor.testing.network import Fate, Request
from processor.testing.postgres import Server, UnknownStatement
from processor.testing.postgres.plans import prepared
from processor.testing.postgres.syntax import Command
from processor.testing.scheduler import Process
from processor.writes import CopyWrite, UpsertWrite
from tests.support.databases import TOPIC, TOPIC_ID, step
from tests.support.simulated_database import SimulatedWorld

NAMES = (TOPIC, TOPIC_ID)
TOTALS = Table(
    "totals",
    MetaData(),
    Column("name", Text, primary_key=True),
    Column("total", BigInteger),
)
_STATEMENT = re.compile(
    r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET)\b"
    r"(?!\s*$| [a-z]+ [a-z]+ [a-z]+ )"
)


@pytest.fixture
def world() -> Iterator[SimulatedWorld]:
    world = SimulatedWorld("group")
    world.server.create_table(TOTALS)
    yield world
    world.close()


@pytest.fixture
def row(world: SimulatedWorld) -> Row:
    [row] = world.started()
    return row


KEYS = "processor.dedup_keys_1"
FILLED = {
    "table": KEYS,
    "table_of(current)": KEYS,
    "unseen": f" AND NOT EXISTS (SELECT FROM {KEYS} o WHERE o.key = k)",
}
"""What goes into the engine's statements, where 1 would make another statement of them."""


def texts(source: Path) -> Iterator[str]:
    """The strings of a module, with what goes into one; not what describes them."""
    tree = ast.parse(source.read_text())
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if id(node) in described or id(node) in inside:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else _filled(part)
                for part in node.values
            )


def _filled(part: ast.expr) -> str:
    assert isinstance(part, ast.FormattedValue)
    return FILLED.get(ast.unparse(part.value), "1")


def engine_statements() -> list[str]:
    """All but the templates of handlers' writes, which the contracts run."""
    rooms = sorted(Path(processor.engine.__file__).parent.glob("*.py"))
    found = {
        text
        for source in [*rooms, Path(processor.revisions.__file__)]
        for text in texts(source)
        if _STATEMENT.match(text) and "{" not in text
    }
    return sorted(found)


BEYOND = "c.k <= COALESCE((p.token_ends ->> c.token_in_metadata)::bigint, p.next_offset)"


class TestStatements:
    """What it understands, and what it says of the rest."""

    def test_the_engines_statements_are_found(self) -> None:
        found = engine_statements()
        assert len(found) > 25
        assert all(
            any(part in text for text in found)
            for part in ("locked AS", "FOR UPDATE OF p", "pg_locks", "alembic_version", "COMMIT")
        )

    @pytest.mark.parametrize("text", engine_statements(), ids=lambda text: " ".join(text.split()))
    def test_every_statement_of_the_engine_is_understood(
        self, world: SimulatedWorld, text: str
    ) -> None:
        connection = world.connection()
        connection.execute(f"CREATE TABLE {KEYS} (key uuid PRIMARY KEY)".encode())
        connection.execute('BEGIN; SAVEPOINT message; SAVEPOINT "1"')
        for statement in prepared(text):
            if isinstance(statement.statement, Command):
                connection.execute(str(statement.statement).encode())
            else:
                statement.plan(world.server.shapes)

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT a FROM processor.progress GROUP BY a",
            "SELECT md5(token) FROM processor.progress",
            "UPDATE processor.progress SET token = 'x' WHERE id BETWEEN 1 AND 2",
            "CREATE INDEX i ON processor.progress (id)",
            "MERGE INTO processor.progress",
        ],
    )
    def test_an_unknown_one_is_named_and_kept(self, statement: str) -> None:
        world = SimulatedWorld("group")
        with pytest.raises((UnknownStatement, psycopg.errors.SyntaxError)) as raised:
            world.connection().execute(statement.encode())
        if not isinstance(raised.value, psycopg.Error):
            assert world.server.failures == [raised.value]
            words = statement.split()[:2]
            assert all(word.lower() in str(raised.value).lower() for word in words)


def without(text: str, condition: str) -> str:
    assert condition in text
    return text.replace(condition, "true")


class TestGuards:
    """A condition that is taken out of a statement's text is no longer asked."""

    @pytest.mark.parametrize(
        ("condition", "changes", "row_changes"),
        [
            ("p.next_offset = b.first", {"first": 3}, ""),
            ("p.token = b.token", {"token": "stale"}, ""),
            ("p.lineage = b.lineage", {"lineage": "another"}, ""),
            ("p.intent IS NULL", {}, "intent = '{}'"),
            ("p.superseded_at IS NULL", {}, "superseded_at = now()"),
        ],
    )
    def test_of_the_compare_and_set(
        self,
        world: SimulatedWorld,
        row: Row,
        monkeypatch: pytest.MonkeyPatch,
        condition: str,
        changes: dict[str, Any],
        row_changes: str,
    ) -> None:
        if row_changes:
            world.observed.execute(f"UPDATE processor.progress SET {row_changes}")
        advance = replace(step(row, 0, 5, [b"x"]), **changes)
        with pytest.raises(OwnerChanged):
            world.store().commit([advance], {row.id: NAMES})
        assert world.server.committed("progress")[0]["next_offset"] == 0
        mutant = without(store_module._COMPARE_AND_SET, condition)
        monkeypatch.setattr(store_module, "_COMPARE_AND_SET", mutant)
        world.store().commit([advance], {row.id: NAMES})
        assert world.server.committed("progress")[0]["next_offset"] == 5

    @pytest.mark.parametrize(
        ("condition", "changes", "row_changes"),
        [
            ("p.lineage = c.lineage", {"lineage": "another"}, ""),
            ("p.token = c.token", {"token": "stale"}, ""),
            ("p.intent IS NULL", {}, "intent = '{}'"),
            ("p.published_offset <= c.k", {"offset": 1}, "published_offset = 2"),
            (BEYOND, {"offset": 9}, ""),
            ("c.token_in_metadata = ANY (p.tokens_in_k)", {"token_in_metadata": "unknown"}, ""),
        ],
    )
    def test_of_raising_p(
        self,
        world: SimulatedWorld,
        row: Row,
        monkeypatch: pytest.MonkeyPatch,
        condition: str,
        changes: dict[str, Any],
        row_changes: str,
    ) -> None:
        world.store().commit([step(row, 0, 5, [b"x"])], {row.id: NAMES})
        if row_changes:
            world.observed.execute(f"UPDATE processor.progress SET {row_changes}")
        fields = {
            "progress_id": row.id, "lineage": row.lineage, "token": row.token, "offset": 5,
            "token_in_metadata": row.token,
        }  # fmt: skip
        claim = ledger_module.Claim(**(fields | changes))
        assert world.ledger().raise_published([claim]) == {}
        monkeypatch.setattr(ledger_module, "_RAISE", without(ledger_module._RAISE, condition))
        if condition == BEYOND:
            with pytest.raises(DatabaseDoubt, match="check constraint"):
                world.ledger().raise_published([claim])
        else:
            assert world.ledger().raise_published([claim]) == {row.id: claim.offset}

    def test_of_pruning(
        self, world: SimulatedWorld, row: Row, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mutant = without(ledger_module._PRUNE, "o.next_offset <= raised.p")
        monkeypatch.setattr(ledger_module, "_PRUNE", mutant)
        world.store().commit([step(row, 0, 5, [b"x"])], {row.id: NAMES})
        claim = ledger_module.Claim(row.id, row.lineage, row.token, 3, row.token)
        world.ledger().raise_published([claim])
        assert world.server.committed("outbox") == []

    def test_a_lock_that_is_not_taken_holds_nobody(self, world: SimulatedWorld, row: Row) -> None:
        first, second = world.connection(), world.connection()
        first.execute("BEGIN; SELECT id FROM processor.progress FOR UPDATE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            second.execute("SELECT id FROM processor.progress FOR UPDATE NOWAIT")
        first.execute("ROLLBACK; BEGIN; SELECT id FROM processor.progress")
        second.execute("SELECT id FROM processor.progress FOR UPDATE NOWAIT")


def in_process(world: SimulatedWorld, call: Callable[[], Any]) -> tuple[Process, Any]:
    process = Process("worker")
    return process, world.time.spawn(process, call)


def hold(world: SimulatedWorld) -> None:
    connection = world.server.connect(application_name="worker")
    connection.execute("BEGIN")
    connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '10000', true)")
    connection.execute("UPDATE processor.progress SET token = 'held'")
    world.time.pause(5)
    connection.execute("COMMIT")


def held(world: SimulatedWorld) -> bool:
    try:
        world.observed.execute("SELECT 1 FROM processor.progress FOR UPDATE NOWAIT")
    except psycopg.errors.LockNotAvailable:
        return True
    return False


class TestProcesses:
    """What becomes of a process's transaction."""

    def test_one_that_dies_is_rolled_back_at_once(self, world: SimulatedWorld, row: Row) -> None:
        process, _ = in_process(world, partial(hold, world))
        world.time.pause(1)
        assert held(world)
        process.kill()
        world.time.pause(0.01)
        assert not held(world)
        assert world.server.committed("progress")[0]["token"] == row.token

    def test_one_that_stands_still_keeps_its_locks_until_the_time_out(
        self, world: SimulatedWorld, row: Row
    ) -> None:
        process, task = in_process(world, partial(hold, world))
        world.time.pause(1)
        process.stopped_until = 60.0
        world.time.pause(8)
        assert held(world)
        world.time.pause(2)
        assert not held(world)
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            task.result(100)
        assert world.server.committed("progress")[0]["token"] == row.token

    def test_one_that_stands_still_inside_copy_keeps_them_for_ever(
        self, world: SimulatedWorld, row: Row
    ) -> None:
        def copy() -> None:
            store = world.store()
            connection = store._open()
            connection.execute("UPDATE processor.progress SET token = 'held'")
            with connection.cursor().copy("COPY totals (name) FROM STDIN") as copying:
                world.time.pause(5)
                copying.write(b"x\n")

        process, _ = in_process(world, copy)
        world.time.pause(1)
        process.stopped_until = 1_000.0
        world.time.pause(100)
        assert held(world)
        process.kill()
        world.time.pause(0.01)
        assert not held(world)


class TestNetwork:
    """What becomes of a COMMIT that the network delays or loses."""

    @pytest.mark.parametrize(
        ("fate", "noticed", "stands"),
        [
            (Fate.LOST, 1.0, False),
            (Fate.REPLY_LOST, 0.0, True),
            (Fate.LATE, 0.0, True),
            (Fate.LATE, 1.0, False),
            (Fate.SLOW, 0.0, True),
        ],
    )
    def test_its_fate_decides(
        self, world: SimulatedWorld, row: Row, fate: Fate, noticed: float, stands: bool
    ) -> None:
        def fates(request: Request) -> Fate:
            return fate if request.name == "COMMIT" else Fate.ARRIVES

        store = world.store()
        world.server.noticed_share = noticed
        world.network.fates = fates
        if fate is Fate.SLOW:
            store.commit([step(row, 0, 5)], {row.id: NAMES})
        else:
            with pytest.raises(DatabaseDoubt, match="commit"):
                store.commit([step(row, 0, 5)], {row.id: NAMES})
        if fate is Fate.LATE:
            assert world.server.committed("progress")[0]["next_offset"] == 0
        world.time.pause(20)
        assert world.server.committed("progress")[0]["next_offset"] == (5 if stands else 0)
        assert not held(world)

    def test_what_is_cut_off_times_out(self, world: SimulatedWorld, row: Row) -> None:
        store = world.store()
        store.savepoint()
        world.network.cut.add(("outside", "postgres"))
        with pytest.raises(DatabaseDoubt):
            store.commit([step(row, 0, 5)], {row.id: NAMES})
        store.rollback()
        with pytest.raises(DatabaseDoubt, match="begin"):
            store.savepoint()
        world.network.cut.clear()
        store.commit([step(row, 0, 5)], {row.id: NAMES})

    def test_a_standby_that_was_not_waited_for_is_a_doubt_though_it_stands(
        self, world: SimulatedWorld, row: Row
    ) -> None:
        world.server.standby = lambda: "canceling wait for synchronous replication"
        with pytest.raises(DatabaseDoubt, match="synchronous"):
            world.store().commit([step(row, 0, 5)], {row.id: NAMES})
        assert world.server.committed("progress")[0]["next_offset"] == 5


class TestServer:
    """Its deaths, and its past."""

    def test_a_kill_ends_every_session_and_keeps_what_is_committed(
        self, world: SimulatedWorld, row: Row
    ) -> None:
        store = world.store()
        store.commit([step(row, 0, 5)], {row.id: NAMES})
        store.session.copy(CopyWrite(TOTALS, ("name",), [("x",)]))
        world.server.kill()
        with pytest.raises(DatabaseDoubt):
            store.commit([step(row, 5, 6)], {row.id: NAMES})
        store.rollback()
        with pytest.raises(DatabaseDoubt, match="refused"):
            store.commit([step(row, 5, 6)], {row.id: NAMES})
        world.server.restart()
        store.commit([step(row, 5, 7)], {row.id: NAMES})
        assert world.server.committed("progress")[0]["next_offset"] == 7
        assert world.server.committed("totals") == []

    def test_a_restore_goes_back(self, world: SimulatedWorld, row: Row) -> None:
        before = world.server.system_identifier
        store = world.store()
        store.commit([step(row, 0, 5)], {row.id: NAMES})
        state = world.server.snapshot()
        store.commit([step(row, 5, 9)], {row.id: NAMES})
        clone = world.server.clone("clone")
        world.server.restore(state)
        assert world.server.committed("progress")[0]["next_offset"] == 5
        assert world.server.system_identifier == before
        world.server.restore(state, system_identifier=7)
        assert world.server.system_identifier == 7
        assert clone.committed("progress")[0]["next_offset"] == 9
        assert clone.system_identifier == before
        with pytest.raises(DatabaseDoubt):
            store.commit([step(row, 5, 6)], {row.id: NAMES})
        store.rollback()
        store.commit([step(row, 5, 6)], {row.id: NAMES})
        assert state.tables[0].rows is not world.server.tables[state.tables[0].shape.name].rows


class TestHandlersTables:
    """Rows of a table that SQLAlchemy describes."""

    def test_upserts_do_what_they_are_told(self, world: SimulatedWorld, row: Row) -> None:
        store = world.store()
        for how in ("add", "max", "min", "set"):
            upsert = UpsertWrite(TOTALS, ("name",), (("total", how),), [("x", 3), (how, None)])
            store.session.upsert(upsert)
            store.session.upsert(
                UpsertWrite(TOTALS, ("name",), (("total", how),), [("x", 5), (how, 1)])
            )
        store.commit([step(row, 0, 5)], {row.id: NAMES})
        stored = {each["name"]: each["total"] for each in world.server.committed("totals")}
        assert stored == {"x": 5, "add": 1, "max": 1, "min": 1, "set": 1}

    def test_unknown_tables_and_columns_are_told(self, world: SimulatedWorld) -> None:
        connection = world.connection()
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT 1 FROM nowhere")
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute("SELECT nothing FROM totals")


def history(seed: int) -> list[Any]:
    """Of three processes that race for two rows over a bad network."""
    world = SimulatedWorld("group", seed)
    world.server.noticed_share = 0.5
    world.server.create_table(TOTALS)
    rows = world.started(2)
    names = {row.id: NAMES for row in rows}
    seen: list[Any] = []
    choice = world.time.random

    def fates(request: Request) -> Fate:
        return choice.choice(list(Fate)) if choice.random() < 0.05 else Fate.ARRIVES

    def work(name: str) -> None:
        store = world.store(name)
        for at in range(20):
            now = {r["id"]: r["next_offset"] for r in world.server.committed("progress")}
            try:
                order = rows if choice.random() < 0.5 else rows[::-1]
                for row in order:
                    change = (("total", "add"),)
                    store.session.upsert(UpsertWrite(TOTALS, ("name",), change, [(row.lineage, 1)]))
                advances = [step(row, now[row.id], now[row.id] + 1) for row in rows]
                store.commit(advances, names)
            except Exception as error:
                store.rollback()
                seen.append((world.time.now(), name, at, type(error).__name__))
            else:
                seen.append((world.time.now(), name, at, "committed"))

    world.network.fates = fates
    tasks = [world.time.spawn(Process(name), partial(work, name), after=0.001) for name in "abc"]
    for task in tasks:
        task.result(10_000)
    world.time.pause(30)
    world.network.fates = lambda _: Fate.ARRIVES
    totals = [each["total"] for each in world.server.committed("totals")]
    heads = [each["next_offset"] for each in world.server.committed("progress")]
    assert totals == heads, "effects and progress are one transaction's"
    assert world.server.failures == []
    seen.append((totals, heads))
    return seen


def test_a_seed_tells_everything() -> None:
    outcomes = set()
    for seed in range(8):
        first = history(seed)
        assert first == history(seed)
        outcomes |= {each[3] for each in first if len(each) == 4}
    assert outcomes >= {"committed", "DatabaseDoubt", "Deadlock"}


def test_a_server_has_the_frameworks_tables(world: SimulatedWorld) -> None:
    assert isinstance(world.server, Server)
    for table in ("progress", "outbox", "dead_letters", "slots", "partition_states", "control"):
        assert world.server.committed(table) == []
    assert world.server.committed("alembic_version") == [{"version_num": REVISIONS[-1]}]
