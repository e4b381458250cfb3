"""The last resort: Debian's package manager, when root."""

from __future__ import annotations

import os
import shutil
import sys

from devstack.errors import StackError
from devstack.parts.folder import run


def apt_install(package: str) -> bool:
    """Whether the package could be installed; False at once where there is no apt or no root."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return False
    print(f"installing {package} with apt", file=sys.stderr)
    env = shutil.which("env") or "/usr/bin/env"
    command = [env, "DEBIAN_FRONTEND=noninteractive", apt, "--quiet", "--yes"]
    try:
        run([*command, "update"], "apt")
        run([*command, "install", "--no-install-recommends", package], "apt")
    except StackError as error:
        print(error, file=sys.stderr)
        return False
    return True
