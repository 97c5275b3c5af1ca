"""Every fix that names a setting or a command is applied as it is written, and the problem is gone.

A message may offer several ways, separated by `or`: each is tried on a fresh copy of the tree. No way may bring a
problem that was not there before.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from buildkit.checks import find_problems
from buildkit.errors import LocalError
from buildkit.precedence import load_settings
from buildkit.settings import CiEnvironment
from buildkit.source.tree import SourceTree
from tests.checkouts import PROJECTS, commit_all, run_git
from tests.commands import SOURCE, Command
from tests.test_checks import POINTER, write

if TYPE_CHECKING:
    from collections.abc import Callable

LISTS = {"INCLUDE", "EXCLUDE"}
SETTING = re.compile(r"(?:set )?([A-Z_]+=(?:'[^']*'|[^\s;])+)")
ADDED = re.compile(r"(?:add|and) (\S+) to ([A-Z_]+)\b")
REMOVED = re.compile(r"remove ('.*') from EXCLUDE")
DELETED = re.compile(r"delete (\S+)|remove it")


class Case(NamedTuple):
    """A tree with something wrong: the project that it is made from, what is done to it, and the settings."""

    project: str
    prepare: Callable[[Path], object]
    settings: dict[str, str]
    subject: str


def nothing(_source: Path) -> None:
    """Leave the tree as it is."""


def writing(**files: str) -> Callable[[Path], None]:
    """Return what writes files; `__` in a name is a slash, and `_dot_` a dot."""

    def prepare(source: Path) -> None:
        for name, text in files.items():
            write(source, name.replace("__", "/").replace("_dot_", "."), text)

    return prepare


def linking(path: str, target: str) -> Callable[[Path], None]:
    return lambda source: (source / path).symlink_to(target)


def link_to_what_is_ignored(source: Path) -> None:
    write(source, "assets/logo.svg", "<svg/>")
    write(source, ".dockerignore", "assets\n")
    (source / "pair" / "logo.svg").symlink_to("../assets/logo.svg")


def link_to_a_folder_that_is_ignored(source: Path) -> None:
    write(source, "assets/logo.svg", "<svg/>")
    write(source, ".dockerignore", "assets\n")
    (source / "pair" / "assets").symlink_to("../assets")


def point_with_lfs(source: Path) -> None:
    write(source, "pair/model.bin", POINTER)
    commit_all(source)
    write(source, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")


def leave_a_submodule_out(source: Path) -> None:
    inner = source.parent / "inner"
    write(inner, "m.py")
    commit_all(inner)
    commit_all(source)
    run_git(source, "submodule", "--quiet", "add", str(inner), "pair/vendor")
    commit_all(source)
    run_git(source, "submodule", "--quiet", "deinit", "--force", "pair/vendor")


def depend_on_a_path(source: Path) -> None:
    """Have uv resolve something that needs no registry."""
    text = (source / "pyproject.toml").read_text().replace("dependencies = []", 'dependencies = ["foo"]')
    sources = '\n[tool.uv.sources]\nfoo = { path = "vendor/foo" }\n'
    write(source, "pyproject.toml", text + sources)
    write(source, "vendor/foo/pyproject.toml", '[project]\nname = "foo"\nversion = "1"\nrequires-python = ">=3.9"\n')
    write(source, "uv.lock", 'version = 1\nrevision = 3\nrequires-python = ">=3.11"\n')


def depend_without_a_lock(source: Path) -> None:
    depend_on_a_path(source)
    (source / "uv.lock").unlink()


def require_a_wheel(source: Path) -> None:
    """Name a distribution without a version; uv finds it in the tree."""
    write(source, "requirements.txt", "--no-index\n--find-links vendor\nfoo\n")
    metadata = "Metadata-Version: 2.1\nName: foo\nVersion: 1\n"
    (source / "vendor").mkdir()
    with zipfile.ZipFile(source / "vendor/foo-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("foo-1.dist-info/METADATA", metadata)
        wheel.writestr("foo-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("foo-1.dist-info/RECORD", "")


PAIR = {"SERVER_COMMAND": "pair"}
TINY = {"SERVER_MODULE": "tiny_server"}
WEB = {"SERVER_COMMAND": "tidy-web"}
OLD_PYTHON = {"BASE_IMAGE": "python:3.10"}
CASES = {
    "module": Case("requirements-app", nothing, {}, "server"),
    "module of a package": Case("poetry-app", nothing, {"SERVER_MODULE": "cook_book"}, "server"),
    "module of several": Case("pdm-app", nothing, {"SERVER_MODULE": "gone"}, "server"),
    "program": Case("setup-py", nothing, {"SERVER_COMMAND": "tiny"}, "server"),
    "application": Case(
        "poetry-app",
        writing(
            cook_book__web_dot_py="from flask import Flask\n\napp = Flask(__name__)\n", requirements_dot_txt="flask"
        ),
        {"REQUIREMENTS": "requirements.txt", "SERVER_COMMAND": "gunicorn cook_book.gone:app"},
        "server",
    ),
    "django": Case(
        "requirements-app",
        writing(requirements__web_dot_txt="django\n", src__manage_dot_py="", app__main_dot_py=""),
        {},
        "server",
    ),
    "pages of Streamlit": Case("streamlit-pages", nothing, {}, "server"),
    "files of an application": Case("relative-files", nothing, {}, "server"),
    "script with options": Case("old-lock", nothing, OLD_PYTHON, "server"),
    "no wheels": Case("old-lock", nothing, WEB | {"BASE_IMAGE": "python:3.13"}, "Python"),
    "no wheels beside a builder": Case("old-lock", nothing, WEB | {"BUILDER_IMAGE": "python:3.13"}, "Python"),
    "header": Case("old-lock", nothing, WEB | OLD_PYTHON, "packages"),
    "executable": Case(
        "relative-files",
        nothing,
        {"TARGET": "binary", "SERVER_COMMAND": "cd /agent-server && uvicorn main:app"},
        "server",
    ),
    "script": Case("requirements-app", nothing, {"TARGET": "binary", "SERVER_COMMAND": "python /x.py"}, "spec"),
    "Python": Case(
        "scm-package", nothing, PAIR | {"BASE_IMAGE": "nikolaik/python-nodejs:python3.14-nodejs22"}, "Python"
    ),
    "Python of the builder": Case("scm-package", nothing, PAIR | {"BUILDER_IMAGE": "python:3.9-slim"}, "Python"),
    "empty lock beside another": Case("empty-lock", nothing, {"SERVER_MODULE": "empty_lock"}, "dependencies"),
    "empty lock": Case("single-package", depend_on_a_path, TINY, "dependencies"),
    "no lock": Case("single-package", depend_without_a_lock, TINY, "dependencies"),
    "no versions": Case("requirements-app", require_a_wheel, {"SERVER_MODULE": "http.server"}, "dependencies"),
    "lock of a workspace": Case("workspace-today", lambda source: (source / "uv.lock").unlink(), {}, "source"),
    "projects further down": Case(
        "setup-py",
        lambda source: (source / "setup.py").rename(source / "tiny_service" / "setup.py"),
        {"SERVER_COMMAND": "tinyd"},
        "dependencies",
    ),
    "ignored by docker": Case("single-package", writing(_dot_dockerignore="*.md\nuv.lock\n"), TINY, "source"),
    "ignored beside other rules": Case(
        "single-package", writing(_dot_dockerignore="*.md\n"), TINY | {"INCLUDE": "/scripts/"}, "source"
    ),
    "excluded": Case("single-package", nothing, TINY | {"EXCLUDE": "*.md,*.lock,scripts"}, "source"),
    "whole package ignored": Case("single-package", writing(_dot_dockerignore="src\n"), TINY, "source"),
    "whole package excluded": Case("poetry-app", nothing, {"SERVER_COMMAND": "cook", "EXCLUDE": "*_*/"}, "source"),
    "imports": Case("imports-beside", nothing, {"SERVER_MODULE": "rag"}, "imports"),
    "imports of what is excluded": Case(
        "requirements-app", nothing, {"SERVER_COMMAND": "uvicorn app.main:app", "EXCLUDE": "common"}, "imports"
    ),
    "imports of what docker ignores": Case(
        "requirements-app",
        writing(_dot_dockerignore="common/greeting.py\n"),
        {"SERVER_COMMAND": "uvicorn app.main:app"},
        "imports",
    ),
    "dangling link": Case("scm-package", linking("pair/x", "gone"), PAIR, "links"),
    "link out of the tree": Case("scm-package", linking("pair/x", "../../x"), PAIR, "links"),
    "link to a file": Case("scm-package", link_to_what_is_ignored, PAIR, "links"),
    "link to a folder": Case("scm-package", link_to_a_folder_that_is_ignored, PAIR, "links"),
    "Git LFS": Case("scm-package", point_with_lfs, PAIR, "Git LFS"),
    "submodule": Case("scm-package", leave_a_submodule_out, PAIR, "submodules"),
}


# Those that every run tries with the real command; the others are marked slow.
OFTEN = {"module", "Python", "excluded", "imports", "submodule"}


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Case], Command]:
    """A function that makes the tree of a case, fresh at each call."""

    def make_command(case: Case) -> Command:
        world = tmp_path / f"world{len(list(tmp_path.iterdir()))}"
        source = Path(shutil.copytree(PROJECTS / case.project, world / "src"))
        case.prepare(source)
        if not (source / ".gitattributes").exists():
            commit_all(source)
        return Command(source, SOURCE | case.settings)

    return make_command


def read_problems(command: Command) -> dict[str, str]:
    """Return the fix of everything that `doctor` does not like, by what it says."""
    settings = load_settings({}, command.environment, command.checkout, {}).settings
    source = command.checkout / settings.source_dir
    try:
        problems = find_problems(SourceTree(source, settings, CiEnvironment()), settings)
    except LocalError as error:
        return {f"source: {error.message}": error.fix}
    return {f"{problem.subject}: {problem.message}": problem.fix for problem in problems}


def split_ways(fix: str) -> list[str]:
    """Return the ways that a fix offers; what needs a human is left out."""
    fix, _, also = fix.partition("; also ")
    ways = re.split(r",? or (?=add |set |[A-Z_]+=)|, or (?=BUILD_ARGS)", fix)
    known = (SETTING, ADDED, REMOVED, DELETED, re.compile("run `"))
    ways = [way for way in ways if any(pattern.search(way) for pattern in known) and "path/of" not in way]
    return [f"{way}; {also}" if also else way for way in ways]


def apply(command: Command, way: str, problem: str) -> None:
    """Do what a message says, word for word."""
    settings = command.environment
    if commands := re.findall(r"`([^-`][^`]*)`", way):
        for text in commands:
            run_command(command, text)
    elif added := ADDED.findall(way):
        for word, name in added:
            settings[name] = ",".join(filter(None, [settings.get(name, ""), word]))
    elif match := REMOVED.search(way):
        patterns = match[1].strip("'").split("' and '")
        settings["EXCLUDE"] = ",".join(word for word in settings["EXCLUDE"].split(",") if word not in patterns)
    elif match := DELETED.search(way):
        (command.checkout / (match[1] or problem.split()[1])).unlink()
    else:
        for match in SETTING.finditer(way):
            name, _, value = "".join(shlex.split(match[1])).partition("=")
            settings[name] = value


def run_command(command: Command, text: str) -> None:
    words = shlex.split(text)
    if words[0] == "git":
        if words[1] == "lfs" and not shutil.which("git-lfs"):
            pytest.skip("git-lfs is not installed")
        run_git(command.checkout, *words[1:])
    elif words[0] == "uv":
        subprocess.run([*words, "--offline"], cwd=command.checkout, check=True, capture_output=True)
    else:
        pytest.fail(f"nobody has tried {text!r}")


@pytest.mark.parametrize("name", CASES)
def test_every_way_out_of_a_problem_works(make: Callable[[Case], Command], name: str) -> None:
    case = CASES[name]
    before = read_problems(make(case))
    problem = next(text for text in before if text.startswith(f"{case.subject}: "))
    ways = split_ways(before[problem])
    assert ways, before[problem]
    for way in ways:
        command = make(case)
        apply(command, way, problem)
        after = read_problems(command)
        assert problem not in after, f"{way!r} does not help"
        assert not {text.partition(":")[0] for text in after} - {text.partition(":")[0] for text in before}, way


@pytest.mark.parametrize(
    "case",
    [
        Case("scm-package", linking("pair/x", "../../x"), {"BASE_IMAGE": "python:3.14"}, ""),
        Case("single-package", writing(_dot_dockerignore="*.md\nuv.lock\n"), {"EXCLUDE": "*.toml"}, ""),
        Case("requirements-app", writing(_dot_dockerignore="requirements\ncommon\n"), {}, ""),
    ],
    ids=["Python, server and link", "left out in two ways", "imports and requirements"],
)
def test_following_the_messages_one_after_the_other_ends(make: Callable[[Case], Command], case: Case) -> None:
    command = make(case)
    seen: set[str] = set()
    while problems := read_problems(command):
        problem, fix = next(iter(problems.items()))
        assert problem not in seen, "fixes undo each other"
        seen.add(problem)
        apply(command, split_ways(fix)[0], problem)
    command.run("all").succeed()


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_doctor_and_all_agree(make: Callable[[Case], Command], name: str) -> None:
    command = make(CASES[name])
    findings = command.run("doctor", "--json").record["findings"]
    errors = [finding for finding in findings if not finding["ok"]]
    ended = command.run("all")
    assert ended.code == (3 if errors else 0), ended.err
    for finding in errors:
        assert finding["detail"] in ended.err
        assert finding["fix"] in ended.err
