"""Real Apache Kafka and real Postgres as child processes, for the demo, the tests and the bench.

    with Stack() as stack:
        stack.kafka.bootstrap_servers, stack.postgres.url
        stack.kafka.kill(); stack.kafka.restart()

Everything started here ends with this process, however it ends.
"""

from devstack.errors import StackError
from devstack.kafka import Kafka
from devstack.postgres import Postgres
from devstack.proxy import Direction, Proxy
from devstack.service import Service
from devstack.stack import Stack

__all__ = ["Direction", "Kafka", "Postgres", "Proxy", "Service", "Stack", "StackError"]
