"""Kafka's own command-line tools, from its jars."""

from __future__ import annotations

import subprocess

from devstack.errors import StackError
from devstack.parts import java, kafka_jars
from devstack.parts.jars import class_path

CONSUMER_GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
"""``kafka-consumer-groups.sh``"""
TIMEOUT_SECONDS = 60.0
QUICK = "-XX:TieredStopAtLevel=1"


def run_tool(tool: str, *arguments: str) -> str:
    """What it prints.

    :raises StackError: when it says that something failed, by its exit code or as a line.
    """
    command = [str(java().program), QUICK, "-cp", class_path(kafka_jars()), tool, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if done.returncode or "Error:" in done.stdout:
        raise StackError(f"{tool.rpartition('.')[2]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
