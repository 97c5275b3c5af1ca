"""What to do about what a log says: that of a build that failed, or of a server that does not respond."""

from __future__ import annotations

import re
from typing import NamedTuple

from buildkit.contract import WORKSPACE
from buildkit.native import LIBRARIES, suggest

_BUILD, _EXTRA = "BUILD_PACKAGES", "EXTRA_PACKAGES"
_HEADER = re.compile(r"fatal error: ([\w./+-]+\.h(?:pp)?): No such file")
# Compilers that do not find what newer versions of Python no longer have.
_OLD_CODE = re.compile(r"\.\w+:\d+:\d+: (?:fatal )?error: .*(?:\b_?Py[A-Z]\w+|longintrepr\.h|ob_digit)")
_FAILED_PACKAGE = re.compile(r"Failed to build `([^`]+)`")
_LIBRARY = re.compile(r"(lib[\w+-]+\.so[\w.]*): cannot open shared object file")
# Words of failures: a build that went well up to its last step names headers and libraries, too.
_FAILURE = re.compile(r"not found|not find|No such|missing|not installed|[Ee]rror|cannot|[Uu]nable|Unknown|required")
# What argparse, click and their like say about a command line that they reject.
_REJECTED = re.compile(
    r"unrecognized arguments|the following arguments are required|invalid choice|No such (?:option|command)"
    r"|Missing (?:argument|option|command|required)|unexpected extra argument|^usage: ",
    re.IGNORECASE | re.MULTILINE,
)
# A file that is there, and a folder that may be written to, if the server is started from the source's folder.
_NO_FILE = re.compile(
    r"(?:No such file or directory|Permission denied): '(?!/)[\w.-]+"
    r"|(?:Directory|File|Path) '(?!/)[\w./-]+' does not exist",
    re.IGNORECASE,
)


class _Advice(NamedTuple):
    """What to do if a log has a line like this."""

    line: re.Pattern[str]
    fix: str


# https://docs.python.org/3/whatsnew/3.12.html#removed and https://peps.python.org/pep-0594/
_OLD_PYTHON = tuple(
    _Advice(re.compile(line), f"the code needs Python {version} or older: set BASE_IMAGE to an image that has it")
    for version, line in {
        "3.9": r"cannot import name '\w+' from 'collections'",
        "3.11": r"No module named '(?:(?:asynchat|asyncore|distutils|imp|smtpd)\b|[\w.]+\.six\.moves)",
        "3.12": (
            r"No module named '(?:aifc|audioop|cgi|cgitb|chunk|crypt|imghdr|nntplib|pipes|sndhdr|telnetlib|uu|xdrlib)'"
        ),
    }.items()
)
_NEW_VERSIONS = (
    "the installed versions do not suit the code: lock those that it was written for, for example with"
    " `uv pip compile --exclude-newer` and the date of the code"
)
_NO_MODULE = (
    "add the package that has this module to the dependencies, name another file with REQUIREMENTS, or name the extra"
    " that has it with BUILD_ARGS=SYNC_OPTIONS='--extra NAME'"
)
_OF_BUILDS = (
    *_OLD_PYTHON,
    _Advice(
        re.compile(r"since poetry\.lock was last generated|poetry\.lock is not up to date"),
        "run `poetry lock`, and commit poetry.lock",
    ),
    _Advice(
        # https://python-poetry.org/docs/basic-usage/#operating-modes
        re.compile(r"No file/folder found for package"),
        "set `package-mode = false` in [tool.poetry], or name the packages there",
    ),
    _Advice(re.compile(r"server cannot start: .*cannot import name"), _NEW_VERSIONS),
    _Advice(re.compile(r"server cannot start: .*No module named"), _NO_MODULE),
)
_OF_STARTS = (
    *_OLD_PYTHON,
    _Advice(
        _NO_FILE, "if this belongs to the folder of the source, let SERVER_COMMAND begin with `cd /agent-server &&`"
    ),
    _Advice(
        re.compile(r"(?:Permission denied|Read-only file system|unable to open database file)"),
        f"the user of the image may write to {WORKSPACE}: keep the server's data there (an option in SERVER_COMMAND)",
    ),
    _Advice(re.compile(r"ImportError: cannot import name"), _NEW_VERSIONS),
    _Advice(re.compile(r"ModuleNotFoundError: No module named"), _NO_MODULE),
    _Advice(
        re.compile(r"could not find terminal|Inappropriate ioctl for device|setupterm"),
        "this program is for terminals: add its option for a web server, if it has one, to SERVER_COMMAND",
    ),
    _Advice(
        _REJECTED,
        "correct SERVER_COMMAND (or SERVER_MODULE, which is given --host and --port): the log says what it takes",
    ),
    _Advice(
        # https://docs.djangoproject.com/en/stable/ref/contrib/staticfiles/#manifeststaticfilesstorage
        re.compile(r"Missing staticfiles manifest entry"),
        "collect Django's static files: RUN `collectstatic` in the block `final` of a Dockerfile.j2 in TEMPLATE_DIR",
    ),
)


def advise_build(log: str) -> str | None:
    """Return what gives a failed build what it lacks, or None if its log does not say that."""
    lines = _keep_failures(log)
    if _OLD_CODE.search(lines):
        failed = _FAILED_PACKAGE.search(lines)
        package = failed[1] if failed else "a package"
        fix = "lock a newer version of it, or set BASE_IMAGE to an image with an older Python"
        return f"{package} does not compile with this Python: {fix}"
    if library := next((found for found in LIBRARIES if found.missing and re.search(found.missing, lines)), None):
        return suggest(library)
    if header := _HEADER.search(lines):
        return f"add the system package that has the header {header[1]} to {_BUILD}"
    return next((advice.fix for advice in _OF_BUILDS if advice.line.search(log)), None)


def advise_start(log: str) -> str | None:
    """Return what gives a server what it lacks to start, or None if its log does not say that."""
    lines = _keep_failures(log)
    if library := next((found for found in LIBRARIES if found.unloadable and re.search(found.unloadable, lines)), None):
        return f"add {library.runtime.replace(' ', ',')} (its name on Debian) to {_EXTRA}"
    if shared := _LIBRARY.search(lines):
        return f"add the system package that has {shared[1]} to {_EXTRA}"
    return next((advice.fix for advice in _OF_STARTS if advice.line.search(log)), None)


def _keep_failures(log: str) -> str:
    return "\n".join(line for line in log.splitlines() if _FAILURE.search(line))
