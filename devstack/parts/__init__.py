"""Finds or fetches what the stack is made of: a Java, Kafka's jars, a Postgres, another clock.

What the machine has comes first, then parts from pip, kept under `.devstack/parts`; then apt,
when root. `DEVSTACK_PARTS=machine` allows the first only, `DEVSTACK_PARTS=pip` the second only.
"""

from devstack.parts.faketime import faketime, faketime_environment
from devstack.parts.jars import checker_jars, compiler_jars, kafka_jars, kafka_version
from devstack.parts.java_runtime import Java, java
from devstack.parts.postgres_server import PostgresPrograms, postgres

__all__ = [
    "Java",
    "PostgresPrograms",
    "checker_jars",
    "compiler_jars",
    "faketime",
    "faketime_environment",
    "java",
    "kafka_jars",
    "kafka_version",
    "postgres",
]
