"""What an operator does about a halt; docs/remedies.md tells of each.

A remedy changes Postgres only, in one transaction, under the row lock: H, P, lineage and an
*intent*, the K that is to be set and what it replaces. The partition's owner, which decides a
halted partition again every few seconds, carries the intent out (row 7 of the recovery table). So a
command that dies has either changed nothing or left all that the owner needs, and no offset is ever
committed from outside the group.

::

    values.py     what a remedy is planned from, and what a plan is
    adopt.py restore.py reset.py skip.py recreated.py resolve.py discard.py
                  facts in, plan or refusal out: pure, without I/O
    published.py  what the output topics show of a partition's batches
    look.py       reads the facts
    halting.py    has a live owner halt first
    change.py     writes a plan and its audit row
    run.py        look, halt, look again, change
    replay/       the handlers run again over what the database has lost
"""

from __future__ import annotations

from processor.operations.remedies.run import Outcome, Remedies
from processor.operations.remedies.values import Plan, Planner

__all__ = ["Outcome", "Plan", "Planner", "Remedies"]
