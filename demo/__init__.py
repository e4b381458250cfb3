"""The main job on a real Kafka and a real Postgres, killed at random while it runs.

`python -m demo` produces events, kills workers, and in the end looks for every event in both
stores: there once, or the exit status is 1.
"""
