"""Guards one server process. Run as a script by `devstack.process`, never imported.

The guard starts the server, carries out commands read from its standard input, and ends with the
server's exit code. It kills the server and everything the server started as soon as its own
parent is gone, however that came about.

Why a process of its own: the kernel's parent-death signal fires when the *thread* that started a
child ends, so a broker restarted from a helper thread would die with that thread. The guard has
one thread, so its children can rely on the signal; and as their subreaper it also inherits, and
can kill, what an ended server leaves behind (Postgres backends outlive their postmaster).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT_CHECK_MS = 300
SETTLE_SECONDS = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> int:
    """Arguments: parent's pid, log file, `uid:gid` or `-`, then the command."""
    parent, log, user, *command = arguments
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeup = _wake_on_signals()
    server = _start(command, log, user)
    _reply(str(server))
    return _guard(server, int(parent), wakeup)


def _wake_on_signals() -> int:
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _kill_all())
    return read_end


def _start(command: list[str], log: str, user: str) -> int:
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _become_server(log, user, guard)
        os.execvp(command[0], command)
    except BaseException as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
    os._exit(127)


def _become_server(log: str, user: str, guard: int) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Python ignores these two, and ignored signals stay ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if user != "-":
        uid, gid = map(int, user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After setuid, which clears it.
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guard:
        os._exit(127)


def _guard(server: int, parent: int, wakeup: int) -> int:
    poller = select.poll()
    poller.register(0, select.POLLIN | select.POLLHUP)
    poller.register(wakeup, select.POLLIN)
    commands = b""
    while True:
        ready = dict(poller.poll(PARENT_CHECK_MS))
        if wakeup in ready:
            os.read(wakeup, 4096)
        status = _reap(server)
        if status is not None:
            _kill_all()
            return os.waitstatus_to_exitcode(status)
        # A forked child of the parent may hold the pipe open, hence the second question.
        received = os.read(0, 4096) if 0 in ready else None
        if received == b"" or os.getppid() != parent:
            _kill_all()
            return -signal.SIGKILL
        *lines, commands = (commands + (received or b"")).split(b"\n")
        for line in lines:
            _obey(server, line.decode())


def _obey(server: int, command: str) -> None:
    match command.split():
        case ["signal", number]:
            os.kill(server, int(number))
        case ["pause"]:
            # The server first: it must not start more processes meanwhile.
            _send(signal.SIGSTOP, [server])
            _settled([server])
            _send(signal.SIGSTOP, _family())
            _settled(_family())
        case ["resume"]:
            _send(signal.SIGCONT, _family())
        case ["kill"]:
            _send(signal.SIGSTOP, [server])
            _send(signal.SIGKILL, [*_family(), server])
    _reply("ok")


def _reply(line: str) -> None:
    # The parent may be gone; the loop will notice.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, line.encode() + b"\n")


def _reap(server: int) -> int | None:
    """Collects the dead; the server's wait status once it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == server:
            found = status


def _kill_all() -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while (family := _family()) and time.monotonic() < deadline:
        _send(signal.SIGKILL, family)
        _reap(0)
        time.sleep(0.005)


def _send(number: int, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _settled(pids: list[int]) -> None:
    """Waits until all are stopped or gone: a stop is delivered some time after kill() returns."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while any(_state(pid) not in "TtZX" for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.001)


def _state(pid: int) -> str:
    stat = _stat(pid)
    return stat[0] if stat else "X"


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may itself hold blanks and parentheses: state, ppid, …"""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 (pathlib is slow to import)
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _family() -> list[int]:
    """Every living descendant, nearest first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (stat := _stat(int(name))):
            children.setdefault(int(stat[1]), []).append(int(name))
    family = list(children.get(os.getpid(), []))
    for pid in family:
        family.extend(children.get(pid, []))
    return family


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) & 0xFF)
