"""After the verdict: the same processor again, a trickle of events, and what there is to see."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from rich.console import Console

from demo.stage import PIPELINE, Stage
from devstack import parts
from pipelines.user_events.handlers import PROCESSED

TRICKLE = 5.0
CHECK_SECONDS = 0.5
QUERIES = (
    "SELECT * FROM user_events.user_analytics ORDER BY page_views DESC LIMIT 5;",
    "SELECT event_type, count(*) FROM user_events.processed_events GROUP BY 1 ORDER BY 2 DESC;",
    "SELECT partition, next_offset, published_offset, outputs FROM processor.progress ORDER BY 1;",
)


def look_around(stage: Stage, console: Console) -> None:
    """Everything runs until Ctrl-C.

    :raises StackError: when a part ends by itself.
    """
    stage.start_processor()
    traffic = stage.start_traffic(TRICKLE)
    for line in guide(stage.stack.environment, str(stage.log), psql()):
        console.print(line, soft_wrap=True)
    while True:
        time.sleep(CHECK_SECONDS)
        stage.check()
        traffic.check()


def guide(environment: dict[str, str], log: str, client: str) -> Iterator[str]:
    """What to type where, in another terminal."""
    yield ""
    yield f"The processor runs again, with {TRICKLE:g} events a second. In another terminal, here:"
    yield ""
    yield from (f"  export {name}={value}" for name, value in environment.items())
    yield ""
    yield f"  .venv/bin/processor status {PIPELINE}"
    yield f"  .venv/bin/processor outbox list {PIPELINE}"
    yield f"  .venv/bin/processor dead-letters list {PIPELINE}"
    yield f"  .venv/bin/python -m demo.follow {PROCESSED}    # the output topic, as it grows"
    yield f"  tail -f {log}"
    yield ""
    yield f'  {client} "$PROCESSOR_DATABASE__URL"'
    yield from (f"    {query}" for query in QUERIES)
    yield ""
    yield "Ctrl-C ends everything, data included."


def psql() -> str:
    """What to call it by: it may be beside the server only, or have to be installed."""
    beside = parts.postgres().folder / "psql"
    return str(beside) if not shutil.which("psql") and beside.exists() else "psql"
