"""What a log says is missing, and the setting that adds it."""

from __future__ import annotations

import pytest

from buildkit.advice import advise_build, advise_start
from buildkit.native import LIBRARIES
from buildkit.values import parse_packages

BUILDS = {
    "Error: pg_config executable not found.": "add libpq-dev to BUILD_PACKAGES, and libpq5 to EXTRA_PACKAGES",
    "src/MySQLdb/_mysql.c:29:10: fatal error: mysql.h: No such file or directory": "add default-libmysqlclient-dev",
    "Exception: Can not find valid pkg-config name.": "add default-libmysqlclient-dev,pkg-config to BUILD_PACKAGES",
    "Modules/constants.h:7:10: fatal error: lber.h: No such file or directory": "add libldap2-dev,libsasl2-dev",
    "Error: Please make sure the libxml2 and libxslt development packages are installed. xslt-config": "libxslt1-dev",
    "c/_cffi_backend.c:15:10: fatal error: ffi.h: No such file or directory": "add libffi-dev to BUILD_PACKAGES (",
    "fatal error: openssl/opensslv.h: No such file or directory": "add libssl-dev to BUILD_PACKAGES",
    "src/_imaging.c: error: zlib.h: No such file or directory": "add libjpeg-dev,zlib1g-dev to BUILD_PACKAGES",
    "fatal error: Python.h: No such file or directory": "add python3-dev to BUILD_PACKAGES",
    "error: command 'gcc' failed: No such file or directory": "add build-essential to BUILD_PACKAGES",
    "unable to execute 'x86_64-linux-gnu-gcc': No such file or directory": "add build-essential to BUILD_PACKAGES",
    "c/_cffi_backend.c:6112:9: error: implicit declaration of function '_PyErr_WriteUnraisableMsg'": "lock a newer",
    "uvloop/loop.c:17:10: fatal error: longintrepr.h: No such file or directory": "lock a newer",
    "../meson.build:1:0: ERROR: Unknown compiler(s): [['cc'], ['gcc'], ['clang']]": "add build-essential",
    "error: can't find Rust compiler": "add cargo,rustc to BUILD_PACKAGES",
    "RuntimeError: npm is missing": "add npm to BUILD_PACKAGES",
    "Cargo, the Rust package manager, is not installed or is not on PATH. cargo not found": "add cargo,rustc",
    "fatal error: zmq/proxy.hpp: No such file or directory": "has the header zmq/proxy.hpp to BUILD_PACKAGES",
    "ModuleOrPackageNotFoundError: No file/folder found for package app": "set `package-mode = false`",
    "pyproject.toml changed significantly since poetry.lock was last generated.": "run `poetry lock`",
    "the server cannot start: app cannot be imported: cannot import name 'url_quote' from 'jose'": "lock those",
    "the server cannot start: app cannot be imported: No module named 'redis'": "SYNC_OPTIONS='--extra NAME'",
}
STARTS = {
    "ImportError: libpq.so.5: cannot open shared object file: No such file or directory": "add libpq5",
    "ImportError: failed to find libmagic.  Check your installation": "add libmagic1",
    "ImportError: libGL.so.1: cannot open shared object file: No such file or directory": "add libgl1,libglib2.0-0",
    "OSError: cannot load library 'libgobject-2.0-0'": "add libpango-1.0-0,libpangoft2-1.0-0",
    "ImportError: libzmq.so.5: cannot open shared object file: No such file or directory": "has libzmq.so.5 to EXTRA_",
    "RuntimeError: Directory 'statics' does not exist": "begin with `cd /agent-server &&`",
    "FileNotFoundError: [Errno 2] No such file or directory: 'config.yaml'": "begin with `cd /agent-server &&`",
    "serve: error: unrecognized arguments: --host 0.0.0.0": "correct SERVER_COMMAND",
    "Error: No such option '--host'.": "correct SERVER_COMMAND",
    "Error: missing required path to database file.": "correct SERVER_COMMAND",
    "ModuleNotFoundError: No module named 'distutils'": "Python 3.11 or older",
    "ModuleNotFoundError: No module named 'django.utils.six.moves'": "Python 3.11 or older",
    "ImportError: cannot import name 'Mapping' from 'collections' (/x.py)": "Python 3.9 or older",
    "ImportError: cannot import name 'BaseResponse' from 'werkzeug.wrappers' (/x.py)": "lock those",
    "Cannot init the curses library (setupterm: could not find terminal)": "option for a web server",
    "ModuleNotFoundError: No module named 'bottle'": "name another file with REQUIREMENTS",
    "ModuleNotFoundError: No module named 'cgi'": "Python 3.12 or older",
    "PermissionError: [Errno 13] Permission denied: 'logs'": "begin with `cd /agent-server &&`",
    "[Errno 13] Permission denied: '/var/lib/data'": "/workspace/project",
    "sqlite3.OperationalError: unable to open database file": "/workspace/project",
    "ValueError: Missing staticfiles manifest entry for 'logo.png'": "collectstatic",
}


@pytest.mark.parametrize("line", BUILDS)
def test_the_log_of_a_build_names_what_is_missing(line: str) -> None:
    advice = advise_build(f"#9 1.0 Building wheel\n#9 2.0   {line}\n#9 ERROR: process did not complete: exit code: 1\n")
    assert BUILDS[line] in (advice or "")


@pytest.mark.parametrize("line", STARTS)
def test_the_log_of_a_server_names_what_is_missing(line: str) -> None:
    assert STARTS[line] in (advise_start(f"Traceback (most recent call last):\n{line}\n") or "")


@pytest.mark.parametrize(
    "log",
    [
        "",
        "#9 copying openssl/crypto.h to build\n#9 gcc -c zlib.h.c -lpq\n#9 checking for pg_config: yes\n",
        "#9 cc -I /usr/include/cairo.h\n#9 ERROR: process did not complete: exit code: 1\n",
        "#9 installed cmake, npm, git and a compiler\n",
        "FileNotFoundError: [Errno 2] No such file or directory: '/etc/app/config.yaml'",
        "KeyError: 'SECRET_KEY'",
    ],
)
def test_what_is_there_is_not_asked_for(log: str) -> None:
    assert advise_build(log) is None
    assert advise_start(log) is None


def test_every_package_in_the_table_can_be_given_to_its_setting() -> None:
    for library in LIBRARIES:
        named = f"{library.build} {library.runtime}"
        assert parse_packages(named, "BUILD_PACKAGES") == tuple(named.split())
        assert library.build or library.runtime
        assert bool(library.build) >= bool(library.used_by)
