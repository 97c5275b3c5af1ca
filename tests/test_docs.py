"""The docs say what the code does: every task, setting, flag, exit code and example, no more and no less."""

from __future__ import annotations

import dataclasses
import doctest
import html
import importlib
import io
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from invoke.collection import Collection
from rich.console import Console
from rich.text import Text

import buildkit
from buildkit import errors
from buildkit.cli import INTERNAL_ERROR
from buildkit.errors import RuntimeBuildError
from buildkit.runtime_api.protocol import ENDED, IN_PROGRESS
from buildkit.settings import Settings
from buildkit.tasks import make_collection
from tests.reference import list_records, render_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.models import StepResult
    from tests.commands import Command
    from tests.runtime_api import RuntimeApiServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted(ROOT.glob("docs/**/*.md"))}
PAGES["README.md"] = README
ALL = "\n".join(PAGES.values())
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")
# Read beside the settings, and named in a sentence of their own.
OTHER_VARIABLES = {
    "GITHUB_ACTIONS",
    "GITHUB_SHA",
    "GITHUB_REF",
    "GITHUB_OUTPUT",
    "GITHUB_STEP_SUMMARY",
    "HTTPS_PROXY",
    "NO_COLOR",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "TERM",
}
BUILD_ARGUMENTS = dict(
    re.findall(
        r'^ARG (\w+)=\{\{ build_args\.\w+ \| default\("?(.*?)"?\)',
        (ROOT / "templates/Dockerfile.j2").read_text("utf-8"),
        re.MULTILINE,
    )
)
NO_VARIABLES = {"ARG", "HEAD", "IMAGE", "LICENSE", "PUT", *ENDED, *IN_PROGRESS}
MODULES = sorted(
    "buildkit." + path.relative_to(Path(buildkit.__file__).parent).with_suffix("").as_posix().replace("/", ".")
    for path in Path(buildkit.__file__).parent.rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)
TASKS = make_collection().tasks


def read_table(first_heading: str) -> list[list[str]]:
    """Return the cells of the table whose first column has that heading."""
    lines = ALL.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith(f"| {first_heading} |")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def read_blocks(language: str) -> list[str]:
    """Return the fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", ALL, re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize(("path", "text"), [pytest.param(*item, id=item[0].name) for item in render_all()])
def test_generated_pages_and_schemas_are_those_of_the_code(path: Path, text: str) -> None:
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text, "run the test once with UPDATE_DOCS=1"


@pytest.mark.parametrize("record", list_records(), ids=lambda record: record.step)
def test_every_key_of_a_state_file_is_documented(record: type[StepResult]) -> None:
    (row,) = [cells for cells in read_table("file") if cells[0] == f"`{record.step}.json`"]
    own = {item.name for item in dataclasses.fields(record)} - {"made_from"}
    assert set(re.findall(r"`(\w+)`", row[1])) - {"intent", "submitted"} == own


def test_state_files_match_their_schemas(command: Command, runtime_api: RuntimeApiServer) -> None:
    import jsonschema  # here, because it takes seconds

    command.use(runtime_api)
    command.run("all").succeed()
    for name in ("version", "dockerfile", "context", "upload", "wait"):
        schema = json.loads((ROOT / f"buildkit/schemas/{name}.json").read_text("utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(json.loads((command.output / f"{name}.json").read_text("utf-8")), schema)


def test_example_settings_set_nothing_when_copied() -> None:
    assert not [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]


def test_table_of_exit_codes_is_that_of_the_code() -> None:
    documented = {int(code) for cells in read_table("exit code") for code in cells[0].split(",")}
    assert documented == list_exit_codes()


def test_every_variable_in_the_docs_exists() -> None:
    known = {name for name, _, _ in list_settings()} | OTHER_VARIABLES | NO_VARIABLES | set(BUILD_ARGUMENTS)
    prose = re.sub(r"^```.*?^```$", "", ALL, flags=re.MULTILINE | re.DOTALL)
    inline = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", prose))
    assert not {name for name in inline - known if not name.startswith("OPENHANDS_")}


def test_the_docs_have_the_defaults_of_the_build_arguments() -> None:
    given = dict(
        re.findall(r"^\| `(\w+)` \| `?([^`|]*?)`? \|", PAGES["docs/reference/build-arguments.md"], re.MULTILINE)
    )
    fixed = {name: default for name, default in BUILD_ARGUMENTS.items() if re.fullmatch(r"[0-9][0-9a-z.]+", default)}
    assert fixed
    assert {name: given.get(name) for name in fixed} == fixed


def test_every_flag_in_the_docs_is_one_of_its_task() -> None:
    found = 0
    for line in re.findall(r"(?:invoke|runtime-build) ([a-z][^`\n|)]*)", ALL):
        task, *words = line.split("#")[0].split()
        if task not in TASKS:
            continue
        known = {flag for argument in TASKS[task].get_arguments() for flag in argument.names}
        for word in words:
            if word.startswith("--"):
                found += 1
                assert word[2:].partition("=")[0] in known, f"{task} {word}"
    assert found


def test_every_task_that_the_docs_run_exists() -> None:
    runs = re.findall(r"(?:uvx |IMAGE=\$\()?runtime-build ([a-z]+)", "\n".join(read_blocks("yaml") + read_blocks("sh")))
    assert set(runs) <= set(TASKS)
    assert "all" in runs


@pytest.mark.parametrize("block", read_blocks("yaml"))
def test_recipes_are_yaml(block: str) -> None:
    assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.parametrize("block", read_blocks("py"))
def test_python_examples_run(block: str) -> None:
    names: dict[str, object] = {"__file__": str(ROOT / "tasks.py")}
    exec(compile(block, "the docs", "exec"), names)
    assert isinstance(names["ns"], Collection)


@pytest.mark.parametrize("block", read_blocks("jinja"))
def test_template_examples_render(command: Command, block: str) -> None:
    (command.checkout / "templates").mkdir()
    (command.checkout / "templates" / "Dockerfile.j2").write_text(block)
    command.run("version", "dockerfile", TARGET="source-minimal", TEMPLATE_DIR="templates").succeed()
    (added,) = re.findall(r"^RUN .*$", block, re.MULTILINE)
    assert added in (command.output / "Dockerfile").read_text().splitlines()


def test_error_in_the_docs_is_what_is_shown(command: Command) -> None:
    (shown,) = re.findall(r"^```\n(error: .*?)^```$", ALL, re.MULTILINE | re.DOTALL)
    assert command.run("dockerfile", "--target", "binray").fail(2).err == shown


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).is_file(), target


def test_every_page_is_in_the_navigation() -> None:
    navigation = re.findall(r'= "([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8"))
    assert sorted(f"docs/{page}" for page in navigation) == sorted(set(PAGES) - {"README.md"})


def test_the_picture_of_a_terminal_is_of_a_real_run(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    ended = command.run("all").succeed()
    steady = [line for line in ended.err.splitlines() if "packed" not in line]
    if os.environ.get("UPDATE_SCREENSHOTS"):
        console = Console(record=True, width=96, file=io.StringIO())
        console.print("[b green]$[/] [b]runtime-build all[/]")
        for line in ended.err.splitlines():
            console.print(Text(line, style="dim" if "🎉" not in line else ""))
        console.print(Text(ended.result))
        drawn = console.export_svg(title="your-service")
        picture = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # fonts from another server
        (ROOT / "docs/images/terminal.svg").write_text(picture, "utf-8")
    shown = re.sub(
        "<[^>]*>", "", html.unescape((ROOT / "docs/images/terminal.svg").read_text("utf-8")).replace("\xa0", " ")
    )
    for line in steady:
        assert re.sub(r"[0-9a-f]{7}-", "", line) in re.sub(r"[0-9a-f]{7}-", "", shown)


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
