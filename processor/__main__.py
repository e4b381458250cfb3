"""``python -m processor`` is the command ``processor``."""

from processor.cli import main

if __name__ == "__main__":
    main()
