"""The paper says what the code does: every task, setting, flag, exit code and example, no more and no less."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from invoke.collection import Collection

import buildkit
from buildkit import errors
from buildkit.cli import INTERNAL_ERROR
from buildkit.errors import RuntimeBuildError
from buildkit.settings import Settings
from buildkit.tasks import make_collection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.commands import Command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")
# Read beside the settings, and named in a sentence of their own.
OTHER_VARIABLES = {"GITHUB_SHA", "GITHUB_REF", "GITHUB_OUTPUT", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"}
BUILD_ARGUMENTS = dict(
    re.findall(
        r'^ARG (\w+)=\{\{ build_args\.\w+ \| default\("(.*?)"\)',
        (ROOT / "templates/Dockerfile.j2").read_text("utf-8"),
        re.MULTILINE,
    )
)
NO_VARIABLES = {"IMAGE", "LICENSE"}
MODULES = sorted(
    "buildkit." + path.relative_to(Path(buildkit.__file__).parent).with_suffix("").as_posix().replace("/", ".")
    for path in Path(buildkit.__file__).parent.rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)
TASKS = make_collection().tasks


def read_table(first_heading: str) -> list[list[str]]:
    """Return the cells of the table whose first column has that heading."""
    lines = README.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith(f"| {first_heading} |")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def read_blocks(language: str) -> list[str]:
    """Return the fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def list_settings() -> Iterator[tuple[str, str, str]]:
    for item in dataclasses.fields(Settings):
        yield item.name.upper(), item.metadata["default"], item.metadata["meaning"]


def list_exit_codes() -> set[int]:
    """Return every exit code that the code knows."""
    ours = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, RuntimeBuildError)
    ]
    signals = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    return {0, INTERNAL_ERROR, *(error.exit_code for error in ours), *signals}


def test_table_of_tasks_is_that_of_the_code() -> None:
    assert [cells[0] for cells in read_table("task")] == [f"`{name}`" for name in TASKS]


def test_table_of_settings_is_that_of_the_code() -> None:
    documented = [tuple(cells) for cells in read_table("variable")]
    assert documented == [
        (f"`{name}`", f"`{default}`" if default else "empty", meaning) for name, default, meaning in list_settings()
    ]


def test_example_settings_are_those_of_the_code() -> None:
    assert re.findall(r"^# ([A-Z_]+)=(\S*)$", EXAMPLE, re.MULTILINE) == [
        (name, default) for name, default, _ in list_settings()
    ]
    for _, _, meaning in list_settings():
        assert f"\n# {meaning}\n" in EXAMPLE


def test_example_settings_set_nothing_when_copied() -> None:
    assert not [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]


def test_table_of_exit_codes_is_that_of_the_code() -> None:
    documented = {int(code) for cells in read_table("exit code") for code in cells[0].split(",")}
    assert documented == list_exit_codes()


def test_every_variable_in_the_readme_exists() -> None:
    known = {name for name, _, _ in list_settings()} | OTHER_VARIABLES | NO_VARIABLES | set(BUILD_ARGUMENTS)
    inline = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", README))
    assert not {name for name in inline - known if not name.startswith("OPENHANDS_")}


def test_the_readme_has_the_defaults_of_the_build_arguments() -> None:
    given = dict(
        re.findall(r"^\| `(\w+)` \| `?([^`|]*?)`? \|", README.partition("Build arguments of")[2], re.MULTILINE)
    )
    fixed = {name: default for name, default in BUILD_ARGUMENTS.items() if re.fullmatch(r"[0-9][0-9a-z.]+", default)}
    assert fixed
    assert {name: given.get(name) for name in fixed} == fixed


def test_every_flag_in_the_readme_is_one_of_its_task() -> None:
    found = 0
    for line in re.findall(r"(?:invoke|runtime-build) ([a-z][^`\n|]*)", README):
        task, *words = line.split("#")[0].split()
        if task not in TASKS:
            continue
        known = {flag for argument in TASKS[task].get_arguments() for flag in argument.names}
        for word in words:
            if word.startswith("--"):
                found += 1
                assert word[2:].partition("=")[0] in known, f"{task} {word}"
    assert found


def test_every_task_that_the_recipes_run_exists() -> None:
    runs = re.findall(r"(?:uvx |IMAGE=\$\()?runtime-build ([a-z]+)", "\n".join(read_blocks("yaml") + read_blocks("sh")))
    assert set(runs) <= set(TASKS)
    assert "all" in runs


@pytest.mark.parametrize("block", read_blocks("yaml"))
def test_recipes_are_yaml(block: str) -> None:
    assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.parametrize("block", read_blocks("py"))
def test_python_examples_run(block: str) -> None:
    names: dict[str, object] = {"__file__": str(ROOT / "tasks.py")}
    exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["ns"], Collection)


@pytest.mark.parametrize("block", read_blocks("jinja"))
def test_template_examples_render(command: Command, block: str) -> None:
    (command.checkout / "templates").mkdir()
    (command.checkout / "templates" / "Dockerfile.j2").write_text(block)
    command.run("version", "dockerfile", TARGET="source-minimal", TEMPLATE_DIR="templates").succeed()
    (added,) = re.findall(r"^RUN .*$", block, re.MULTILINE)
    assert added in (command.output / "Dockerfile").read_text().splitlines()


def test_error_in_the_readme_is_what_is_shown(command: Command) -> None:
    (shown,) = re.findall(r"^```\n(error: .*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert command.run("dockerfile", "--target", "binray").fail(2).err == shown


def test_commands_for_a_fresh_clone_stand_near_the_top() -> None:
    head = "\n".join(README.splitlines()[:30])
    assert "uv run invoke all" in head
    assert "uv run --extra dev pytest" in head
    assert "pip install -e '.[dev]'" in head


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_function_says_what_it_gives_back() -> None:
    silent = []
    for name in MODULES:
        module = importlib.import_module(name)
        for found in vars(module).values():
            if getattr(found, "__module__", None) == name and callable(found) and not found.__name__.startswith("_"):
                silent += [f"{name}.{found.__name__}"] if not found.__doc__ else []
    assert not silent
