"""The database URL, and which failures to connect pass by themselves."""

from __future__ import annotations

import psycopg
import pytest

from processor.dsn import connection_error, place, psycopg_url
from processor.errors import ConfigurationError, Unreachable

URL = "postgresql://me:secret@db:5433/orders"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@db/orders",
        "postgres://me@db/orders",
        "postgresql+psycopg://me@db/orders",
    ],
)
def test_all_spellings_become_libpqs(url: str) -> None:
    assert psycopg_url(url) == "postgresql://me@db/orders"


@pytest.mark.parametrize("url", ["mysql://me:secret@db/orders", "secret", ""])
def test_other_schemes_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://user@host") as caught:
        psycopg_url(url)
    assert "secret" not in str(caught.value)


def test_an_unparsable_url_does_not_show_the_password() -> None:
    with pytest.raises(ConfigurationError, match="percent-encode") as caught:
        place("postgresql://me:secret%zz@db/orders")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, "db:5433/orders"),
        ("postgresql://me@db", "db:5432/me"),
        ("postgresql://", "localhost:5432/(default)"),
        ("postgresql://a:1,b:2/orders", "a:1,b:2/orders"),
        ("postgresql:///orders?host=/run/pg", "/run/pg:5432/orders"),
    ],
)
def test_the_place_is_told_without_credentials(url: str, expected: str) -> None:
    assert place(url) == expected


def refused(text: str) -> Exception:
    prefix = 'connection failed: connection to server at "10.0.0.1", port 5433 failed: '
    return connection_error(psycopg.OperationalError(prefix + text), URL)


@pytest.mark.parametrize(
    "text",
    [
        "Connection refused\n\tIs the server running on that host?",
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is shutting down",
        "FATAL:  the database system is not yet accepting connections",
        "FATAL:  sorry, too many clients already",
        "FATAL:  terminating connection due to administrator command",
        "timeout expired",
        "session is read-only",
    ],
)
def test_what_passes_by_itself_is_worth_another_attempt(text: str) -> None:
    error = refused(text)
    assert isinstance(error, Unreachable)
    assert "\n" not in str(error)
    assert "db:5433/orders" in str(error)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('FATAL:  password authentication failed for user "me"', "password"),
        ("fe_sendauth: no password supplied", "password"),
        ('FATAL:  database "orders" does not exist', "no such database"),
        ('FATAL:  role "me" does not exist', 'role "me" does not exist'),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.2"', "pg_hba.conf"),
    ],
)
def test_what_does_not_pass_is_told_at_once(text: str, told: str) -> None:
    error = refused(text)
    assert isinstance(error, ConfigurationError)
    assert told in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("password", ["p@ssw0rd", "@", "a@b@c", "p/ssw0rd", "a/@", "a/b@c"])
def test_no_part_of_a_password_is_taken_for_the_host(password: str) -> None:
    for use in (psycopg_url, place):
        with pytest.raises(ConfigurationError, match="%40") as told:
            use(f"postgresql://me:{password}@db:5432/orders")
        assert "ssw0rd" not in str(told.value)
    assert place("postgresql://me:p%40ss@db:5433/orders?application_name=a@b") == "db:5433/orders"
