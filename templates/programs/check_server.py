"""Check that the command that starts the server can be found in the environment that was just built.

usage: check_server.py PROGRAM [ARGUMENT…]

A module that is missing ends the build. A module that is there but cannot be imported without its configuration, its
database or the other packages of the image does not: this is only reported.
"""

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path("/agent-server")
# Where the server is started.
FOLDER = os.environ.get("SERVER_FOLDER", "/")
FOLDERS = (ENVIRONMENT / ".packages/bin", ENVIRONMENT / ".venv/bin")
# Their first argument of this form is an application: `package.module:name`.
SERVERS = {"daphne", "flask", "granian", "gunicorn", "hypercorn", "uvicorn", "waitress-serve"}
APPLICATION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?:\(.*\))?")
# With one of these, the application is looked for in another folder.
ELSEWHERE = {"--app-dir", "--chdir", "--working-dir"}
TIMEOUT_S = 60
USER = 10001
NOT_THERE = 3
IMPORT = f"""
import importlib, sys
name, attribute = sys.argv[1:]
try:
    module = importlib.import_module(name)
except ImportError as error:
    # A library of the system that is missing here may be in the image.
    if not isinstance(error, ModuleNotFoundError) and "cannot import name" not in str(error):
        raise
    print(name, "cannot be imported:", error, file=sys.stderr)
    sys.exit({NOT_THERE})
if attribute and not hasattr(module, attribute):
    print(name, "has no", attribute, file=sys.stderr)
    sys.exit({NOT_THERE})
"""


def check_module(name: str, attribute: str = "") -> None:
    """Exit if a module, or something that it imports, is missing; it cannot write to the tree while it is imported."""
    command = [sys.executable, "-B", "-c", IMPORT, name, attribute]
    options = {"user": USER, "group": USER} if sys.version_info >= (3, 9) else {}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=FOLDER,
            env={"PATH": f"{FOLDERS[1]}:/usr/local/bin:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            **options,
        )
    except subprocess.TimeoutExpired:
        print(f"{name} is not imported within {TIMEOUT_S} s; whether it starts shows when the image runs")
        return
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode == NOT_THERE:
        sys.exit(f"the server cannot start: {last}")
    if done.returncode:
        print(f"{name} cannot be imported here, which may need its configuration: {last}")


def check_program(name: str) -> None:
    """Exit if no package has installed a program of this name."""
    found = sorted({path.name for folder in FOLDERS if folder.is_dir() for path in folder.iterdir()})
    if name not in found:
        near = ", ".join(difflib.get_close_matches(name, found, 3)) or "none with a similar name"
        sys.exit(f"the server cannot start: no package has installed the program {name!r}; there is: {near}")


def check_script(path: str) -> None:
    """Exit if a script is not where the server will look for it."""
    place = Path(FOLDER, path)
    if not place.exists():
        there = f"; did you mean {ENVIRONMENT / path}?" if (ENVIRONMENT / path).exists() else ""
        sys.exit(f"the server cannot start: there is no {place}{there}")


def check(program: str, *arguments: str) -> None:
    """Exit with a line that says what is missing."""
    if program == "python" and arguments[:1] == ("-m",):
        program, arguments = arguments[1], arguments[2:]
        check_module(program)
    elif program == "python":
        check_script(next((word for word in arguments if not word.startswith("-")), ""))
    else:
        check_program(program)
    if program in SERVERS and not ELSEWHERE.intersection(word.partition("=")[0] for word in arguments):
        application = next(filter(None, map(APPLICATION.fullmatch, arguments)), None)
        if application:
            check_module(*application.groups())


if __name__ == "__main__":
    check(*sys.argv[1:])
