"""The campaign: every kind of fault on real parts, then each message is looked for in both stores.

``python -m tests.faults.chaos --minutes 10``. A message's way through these files: traffic,
pipeline, then both stores, audit. The faults': schedule, and one file for each family of kinds.
"""
