"""Whether a pipeline's declared tables are what the database has.

Names and types are read from the catalogue; :func:`judge` compares without I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects import postgresql

from processor.operations.check.finding import Area, Finding
from processor.operations.database import Connection

RIGHTS = ("SELECT", "INSERT", "UPDATE")
REMEDY = "run the pipeline's migrations, or correct its declared tables"

INTEGERS = {"smallint": 2, "integer": 4, "bigint": 8}
TEXTS = ("text", "character varying", "character")
ALIASES = {
    "varchar": "character varying",
    "char": "character",
    "timestamp": "timestamp without time zone",
    "time": "time without time zone",
    "float": "double precision",
    "decimal": "numeric",
    "bool": "boolean",
    "int": "integer",
    "serial": "integer",
    "bigserial": "bigint",
    "smallserial": "smallint",
}
BUILT_IN = {
    *INTEGERS,
    *TEXTS,
    *ALIASES.values(),
    "bytea",
    "date",
    "interval",
    "json",
    "jsonb",
    "real",
    "timestamp with time zone",
    "time with time zone",
    "uuid",
}

tables = Area("tables")


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column as the catalogue has it; ``filled`` when it has a default or is generated."""

    type: str
    nullable: bool
    filled: bool


@dataclass(frozen=True)
class FoundTable:
    columns: Mapping[str, FoundColumn]
    missing_rights: tuple[str, ...] = ()
    keys: frozenset[frozenset[str]] = field(default_factory=frozenset)
    """The column sets that are unique in the database."""


def gather(connection: Connection, declared: MetaData) -> dict[str, FoundTable]:
    """Each declared table that exists, by its full name."""
    found = {}
    for table in declared.sorted_tables:
        name = _quoted(table)
        row = connection.execute("SELECT to_regclass(%s)::oid", [name]).fetchone()
        if row is not None and row[0] is not None:
            found[table.fullname] = _found(connection, row[0])
    return found


def judge(declared: MetaData, found: Mapping[str, FoundTable]) -> Iterator[Finding]:
    for table in declared.sorted_tables:
        existing = found.get(table.fullname)
        if existing is None:
            yield tables.error(f"table {table.fullname} does not exist", REMEDY)
            continue
        problems = [*_compared(table, existing)]
        yield from problems
        if not problems:
            yield tables.ok(f"table {table.fullname} fits")


def _compared(table: Table, found: FoundTable) -> Iterator[Finding]:
    for column in table.columns:
        yield from _column(table, column, found.columns.get(column.name))
    for name, extra in found.columns.items():
        if name not in table.columns and not extra.nullable and not extra.filled:
            what = f"{table.fullname}.{name} is not declared, NOT NULL and without default"
            yield tables.error(what, REMEDY)
    key = frozenset(column.name for column in table.primary_key.columns)
    if key and key not in found.keys:
        columns = ", ".join(column.name for column in table.primary_key.columns)
        yield tables.error(f"{table.fullname} has no unique key on ({columns})", REMEDY)
    for right in found.missing_rights:
        what = f"the configured user lacks {right} on {table.fullname}"
        yield tables.error(what, f"GRANT {right} ON {table.fullname}")


def _column(table: Table, column: Column[object], found: FoundColumn | None) -> Iterator[Finding]:
    name = f"{table.fullname}.{column.name}"
    if found is None:
        yield tables.error(f"column {name} does not exist", REMEDY)
        return
    declared = type_name(column)
    if not fits(declared, found.type):
        what = f"column {name} is {found.type}, declared as {declared}"
        built_in = _built_in(declared) and _built_in(found.type)
        # An enum, a domain or an extension's type may well take what is written as text.
        yield tables.error(what, REMEDY) if built_in else tables.warning(what, REMEDY)
    if column.nullable and not found.nullable and not found.filled:
        yield tables.error(f"column {name} is NOT NULL, declared as nullable", REMEDY)
    if not column.nullable and found.nullable:
        yield tables.warning(f"column {name} may be NULL, declared as NOT NULL", REMEDY)


def fits(declared: str, found: str) -> bool:
    """Whether every value of the declared type can be stored in a column of the found one.

    >>> fits("integer", "bigint"), fits("bigint", "integer")
    (True, False)
    >>> fits("character varying(20)", "text"), fits("text", "character varying(20)")
    (True, False)
    """
    name, arguments = _split(declared)
    other, limits = _split(found)
    if name in INTEGERS and other in INTEGERS:
        return INTEGERS[name] <= INTEGERS[other]
    if name in TEXTS and other in TEXTS:
        return not limits or (bool(arguments) and arguments[0] <= limits[0])
    if name == other == "numeric":
        return not limits or arguments == limits
    return declared == found


def type_name(column: Column[object]) -> str:
    """A declared column's type as Postgres spells it (``format_type``)."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    spelt = column.type.compile(dialect=dialect).lower()
    array = spelt.endswith("[]")
    name, arguments = _split(spelt.removesuffix("[]"))
    told = ALIASES.get(name, name)
    limits = f"({','.join(map(str, arguments))})" if arguments else ""
    head, space, tail = told.partition(" with")
    # The catalogue writes the precision in the middle: timestamp(3) with time zone.
    told = f"{head}{limits}{space}{tail}" if space else f"{told}{limits}"
    return f"{told}[]" if array else told


def _split(spelt: str) -> tuple[str, tuple[int, ...]]:
    """A type's name and the numbers in its brackets."""
    head, bracket, rest = spelt.partition("(")
    if not bracket:
        return spelt, ()
    numbers, _, tail = rest.partition(")")
    return f"{head.strip()}{tail}", tuple(int(number) for number in numbers.split(","))


def _built_in(spelt: str) -> bool:
    return _split(spelt.removesuffix("[]"))[0] in BUILT_IN


def _found(connection: Connection, table: int) -> FoundTable:
    columns = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull,"
        " atthasdef OR attidentity <> '' OR attgenerated <> ''"
        " FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped",
        [table],
    ).fetchall()
    rights = connection.execute(
        "SELECT r FROM unnest(%s::text[]) r WHERE NOT has_table_privilege(%s::oid, r)",
        [list(RIGHTS), table],
    ).fetchall()
    keys = connection.execute(
        "SELECT array_agg(attname::text) FROM pg_index JOIN pg_attribute"
        " ON attrelid = indrelid AND attnum = ANY((indkey::int2[])[0 : indnkeyatts - 1])"
        " WHERE indrelid = %s AND indisunique AND indpred IS NULL AND indexprs IS NULL"
        " GROUP BY indexrelid",
        [table],
    ).fetchall()
    return FoundTable(
        {name: FoundColumn(kind, nullable, filled) for name, kind, nullable, filled in columns},
        tuple(row[0] for row in rights),
        frozenset(frozenset(row[0]) for row in keys),
    )


def _quoted(table: Table) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return str(dialect.identifier_preparer.format_table(table))
