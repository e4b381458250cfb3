"""Who does something, as the audit tells it."""

from __future__ import annotations

import getpass
import os
import socket


def this_actor() -> str:
    """``user@host``; ``uid:1234@host`` where the machine has no name for the user.

    As in a container that runs under a number alone.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid:{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
