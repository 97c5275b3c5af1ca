"""The system packages that Python packages are compiled with, and what is said where they are missing.

The names are those of Debian and Ubuntu, from the installation pages of the Python packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class NativeLibrary(NamedTuple):
    """A library, or a tool, that is not a Python package.

    Attributes:
        build: What compiling with it needs; empty if nothing is compiled.
        runtime: What programs that use it need; empty for a tool of the build.
        missing: Matches what a build says without it.
        unloadable: Matches what a program says without it.
        used_by: Normalized names of the Python packages that are compiled with it wherever they are installed on Linux.
    """

    build: str
    runtime: str
    missing: str
    unloadable: str = ""
    used_by: tuple[str, ...] = ()


LIBRARIES = (
    # https://www.psycopg.org/docs/install.html#build-prerequisites
    NativeLibrary(
        "libpq-dev", "libpq5", r"pg_config|libpq-fe\.h", r"libpq\.so|libpq library", ("psycopg2", "psycopg-c")
    ),
    # https://github.com/PyMySQL/mysqlclient#linux
    NativeLibrary(
        "default-libmysqlclient-dev pkg-config",
        "libmariadb3",
        r"mysql\.h|mysql_config|Can not find valid pkg-config name",
        r"libmariadb\.so|libmysqlclient\.so",
        ("mysqlclient",),
    ),
    # https://www.python-ldap.org/en/latest/installing.html#debian
    NativeLibrary(
        "libldap2-dev libsasl2-dev", "libldap2", r"\b(?:lber|ldap|sasl)\.h", r"libldap|liblber", ("python-ldap",)
    ),
    # https://lxml.de/installation.html#requirements
    NativeLibrary(
        "libxml2-dev libxslt1-dev",
        "libxml2 libxslt1.1",
        r"xmlversion\.h|libxml/|xslt-config",
        r"libxslt\.so|libxml2\.so",
    ),
    # https://xmlsec.readthedocs.io/en/stable/install.html
    NativeLibrary("libxmlsec1-dev pkg-config", "libxmlsec1-openssl", r"xmlsec1?['/ .]", r"libxmlsec1"),
    # https://pycairo.readthedocs.io/en/latest/getting_started.html
    NativeLibrary(
        "libcairo2-dev pkg-config",
        "libcairo2",
        r"\bcairo\.h|[\"']cairo[\"'] not found",
        r"libcairo|\"cairo",
        ("pycairo",),
    ),
    # http://pycurl.io/docs/latest/install.html
    NativeLibrary("libcurl4-openssl-dev libssl-dev", "libcurl4", r"curl-config|curl/curl\.h", r"libcurl\.so"),
    # https://cryptography.io/en/latest/installation/#debian-ubuntu
    NativeLibrary("libssl-dev", "openssl", r"openssl/\w+\.h|opensslv\.h"),
    NativeLibrary("libffi-dev", "", r"\bffi\.h"),
    # https://pillow.readthedocs.io/en/stable/installation/building-from-source.html
    NativeLibrary("libjpeg-dev zlib1g-dev", "", r"RequiredDependencyException|jpeglib\.h|\bzlib\.h"),
    # https://github.com/mkleehammer/pyodbc/wiki/Install
    NativeLibrary("unixodbc-dev", "unixodbc", r"\bsql(?:ext)?\.h", r"libodbc\.so"),
    # https://github.com/pythongssapi/python-gssapi#basic
    NativeLibrary("libkrb5-dev", "libgssapi-krb5-2", r"krb5-config|gssapi/gssapi\.h", r"libgssapi", ("gssapi",)),
    # https://pygraphviz.github.io/documentation/stable/install.html
    NativeLibrary("libgraphviz-dev", "graphviz", r"graphviz/\w+\.h", r"libcgraph\.so", ("pygraphviz",)),
    # https://github.com/ahupp/python-magic#installation
    NativeLibrary("", "libmagic1", "", r"failed to find libmagic"),
    # https://doc.courtbouillon.org/weasyprint/stable/first_steps.html#linux
    NativeLibrary("", "libpango-1.0-0 libpangoft2-1.0-0", "", r"libpango|libgobject"),
    # https://docs.opencv.org/4.x/d2/de6/tutorial_py_setup_in_ubuntu.html
    NativeLibrary("", "libgl1 libglib2.0-0", "", r"libGL\.so|libgthread|libglib"),
    NativeLibrary("", "libgomp1", "", r"libgomp\.so"),
    # Tools of the build.
    NativeLibrary("npm", "", r"\bnpm\b[^\n]*(?:missing|not found|No such file|not installed)"),
    NativeLibrary("git", "", r"[Gg]it executable[^\n]*not found|Cannot find command 'git'"),
    NativeLibrary("python3-dev", "", r"\bPython\.h"),
    NativeLibrary("cargo rustc", "", r"Rust compiler|(?:cargo|rustc)[^\n]*not (?:found|installed)"),
    NativeLibrary("cmake", "", r"CMake must be installed|cmake[^\n]*(?:not found|No such file)"),
    NativeLibrary("pkg-config", "", r"pkg-?conf(?:ig)?[^\n]*(?:not found|No such file|not installed)"),
    NativeLibrary(
        "build-essential",
        "",
        r"(?:\b(?:g?cc|[cg]\+\+|clang|make)\b|compiler)[^\n]*(?:not found|No such file|cannot find|Unknown compiler)"
        r"|(?:Unknown compiler|No such file or directory:)[^\n]*\b(?:g?cc|[cg]\+\+|clang|make)\b",
    ),
)


def list_libraries(name: str) -> Iterator[NativeLibrary]:
    """Yield what a Python package, given with its normalized name, is compiled with."""
    yield from (library for library in LIBRARIES if name in library.used_by)


def suggest(library: NativeLibrary) -> str:
    """Return what to type so that the build has a library, and the image what programs need of it."""
    runtime = f", and {library.runtime.replace(' ', ',')} to EXTRA_PACKAGES" if library.runtime else ""
    return f"add {library.build.replace(' ', ',')} to BUILD_PACKAGES{runtime} (their names on Debian)"
