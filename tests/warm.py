"""A process that has imported everything and forks a run of the command for each order on its stdin, a socket.

A cold start takes a third of a second of processor time; the fault table needs more than a thousand runs. What is
forked calls the command's own `main` and ends as an interpreter ends. Besides, a run may be given:

- `virtual_time`: sleeping takes no time, and the monotonic clock goes on by what was slept;
- `kill_at`: SIGKILL at one of the points that `count_points` counts: before and after each call into the system;
- `kill_at_replace`: SIGKILL before (2n) or after (2n + 1) the n-th `os.replace`;
- `elapsed`: a file that takes the seconds of the run, with those that it slept;
- `spawned`: a file that takes the command line and the environment of every child.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_KINDS = ("c_call", "c_return", "c_exception")
_SYSTEM = ("posix", "_io", "io", "_socket", "fcntl", "_posixsubprocess", "select")


class _Clock:
    """The monotonic clock, which can be put forward by sleeping."""

    def __init__(self) -> None:
        self.is_virtual = False
        self._ahead_s = 0.0
        self._sleep, self._monotonic = time.sleep, time.monotonic

    def sleep(self, seconds: Any) -> None:
        # What the standard library sleeps for, such as a child process, goes on in real time.
        caller = sys._getframe(1).f_globals["__name__"]
        if self.is_virtual and caller.startswith("buildkit.") and threading.current_thread() is threading.main_thread():
            self._ahead_s += seconds
        else:
            self._sleep(seconds)

    def monotonic(self) -> float:
        return self._monotonic() + self._ahead_s


_clock = _Clock()
# Before the command is imported: it takes both as defaults of its functions.
time.sleep, time.monotonic = _clock.sleep, _clock.monotonic

import buildkit.__main__  # noqa: E402 - after the clock, see above


def _import_everything() -> None:
    """Import the package, and whatever its functions import when they are called."""
    import ast
    import importlib
    import pkgutil
    from pathlib import Path

    names = {f"encodings.{name}" for name in ("ascii", "idna", "latin_1", "unicode_escape", "utf_8_sig")}
    for module in pkgutil.walk_packages(buildkit.__path__, "buildkit."):
        path = Path(str(importlib.import_module(module.name).__file__))
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    for name in sorted(names):
        with contextlib.suppress(ImportError):  # what is optional
            importlib.import_module(name)


def _compile_templates() -> None:
    """Compile the templates of Dockerfiles, which would be half the time of a run."""
    from buildkit.errors import SettingError
    from buildkit.template import FOLDERS, render_template

    for path in FOLDERS[1].glob("*.j2"):
        with contextlib.suppress(SettingError):  # it has no values
            render_template(path.name, {})


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _watch_points(kill_at: int, counted: str | None) -> None:
    """Count calls into the operating system; kill at one, or keep their number in a file."""
    seen = 0

    def profile(_frame: Any, kind: str, called: Any) -> None:
        nonlocal seen
        if kind in _KINDS and (getattr(called, "__module__", None) or type(called.__self__).__module__) in _SYSTEM:
            seen += 1
            if seen == kill_at:
                _die()

    sys.setprofile(profile)
    if counted:

        def keep() -> None:
            sys.setprofile(None)
            with open(counted, "w", encoding="ascii") as file:
                file.write(str(seen))

        atexit.register(keep)


def _watch_replaces(kill_at: int) -> None:
    replace, seen = os.replace, 0

    def dying_replace(*args: Any, **kwargs: Any) -> None:
        nonlocal seen
        if seen == kill_at:
            _die()
        replace(*args, **kwargs)
        if seen + 1 == kill_at:
            _die()
        seen += 2

    os.replace = dying_replace


def _watch_children(path: str) -> None:
    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            with open(path, "a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{arguments[1]!r}\n{arguments[3]!r}\n")

    sys.addaudithook(audit)


def _keep_elapsed(path: str) -> None:
    """Write the seconds of the run, with those that it slept, to a file."""
    started = time.monotonic()

    def keep() -> None:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(time.monotonic() - started))

    atexit.register(keep)


def _become(order: dict[str, Any]) -> None:
    """Take on the arguments, folder, environment, user and traps of a run."""
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8")  # noqa: SIM115 - open until the process ends
    sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)  # noqa: SIM115 - open until the process ends
    os.umask(order.get("umask", 0o022))
    if uid := order.get("uid"):
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    os.chdir(order["folder"])
    sys.argv = ["runtime-build", *order["arguments"]]
    if limit := order.get("file_size_limit"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    _clock.is_virtual = order.get("virtual_time", False)
    if order.get("elapsed"):
        _keep_elapsed(order["elapsed"])
    if order.get("spawned"):
        _watch_children(order["spawned"])
    if "kill_at_replace" in order:
        _watch_replaces(order["kill_at_replace"])
    if "kill_at" in order or "count_points" in order:
        _watch_points(order.get("kill_at", -1), order.get("count_points"))


class _Run(NamedTuple):
    """A run that has not ended, as far as the server knows."""

    pid: int
    connection: socket.socket

    def report_end(self) -> None:
        """Send the exit code to whoever waits for it."""
        _, status = os.waitpid(self.pid, 0)
        with self.connection, contextlib.suppress(ConnectionError):  # nobody waits any more
            self.connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _read_order(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as file:
        order: dict[str, Any] = json.loads(file.read(int(file.readline())))
    return order


def _end(main: Callable[[], None]) -> NoReturn:
    """End as an interpreter does, but for taking everything apart, which would take as long as the run."""
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what an interpreter does at its end
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120
    os._exit(code if isinstance(code, int) else code is not None)


def _keep_only(streams: list[int], connection: socket.socket, orders: socket.socket, runs: dict[int, _Run]) -> None:
    """Make the streams those of this process, and close all else that the server has open."""
    for end in (connection, *(run.connection for run in runs.values())):
        end.close()
    orders.detach()  # it is stdin, which is replaced
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
    for descriptor in (*streams, *runs):
        os.close(descriptor)


def _serve() -> dict[str, Any]:
    """Return the order of a run, in that run; the server itself ends with the process that started it."""
    _import_everything()
    _compile_templates()
    orders = socket.socket(fileno=0)
    runs: dict[int, _Run] = {}  # by a descriptor that is readable once the run has ended
    gc.collect()
    gc.freeze()  # a run would copy every page that its collector touches
    while True:
        readable: list[int] = select.select([orders.fileno(), *runs], [], [])[0]
        for descriptor in runs.keys() & readable:
            runs.pop(descriptor).report_end()
            os.close(descriptor)
        if orders.fileno() in readable:
            _, descriptors, _, _ = socket.recv_fds(orders, 1, 4)
            if not descriptors:
                os._exit(0)
            connection, streams = socket.socket(fileno=descriptors[0]), descriptors[1:]
            order = _read_order(connection)
            pid = os.fork()
            if pid == 0:
                _keep_only(streams, connection, orders, runs)
                return order
            for stream in streams:
                os.close(stream)
            connection.sendall(b"%d\n" % pid)
            runs[os.pidfd_open(pid)] = _Run(pid, connection)


if __name__ == "__main__":
    _become(_serve())
    _end(buildkit.__main__.main)
