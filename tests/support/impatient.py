"""``processor``, whose supervisor starts each worker again at once, however soon it died."""

from __future__ import annotations

from processor.cli import main
from processor.engine import supervisor

supervisor.LONGEST_DELAY_SECONDS = 0.0
supervisor.SPARE_AFTER_SECONDS = 0.5

if __name__ == "__main__":
    main()
