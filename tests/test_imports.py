"""What a task imports when it really runs: nothing that only others need, because importing is most of its time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.commands import Command

# Heavy, and what they are for.
HTTP = {
    "httpcore",
    "requests",
    "urllib3",
    "http.client",
    "buildkit.runtime_api.client",
    "buildkit.runtime_api.response",
}
RENDERING = {"jinja2", "markupsafe", "buildkit.template"}
PATTERNS = {"pathspec"}
TERMINAL = {"rich"}
PACKING = {"isal", "buildkit.archive.writer", "buildkit.archive.compressor"}
NEVER = {"filelock", "pkg_resources", "setuptools", "hypothesis", "tarfile", "gzip"}


def list_imported(command: Command, *arguments: str) -> set[str]:
    ended = command.run(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert ended.code in {0, 2}, ended.err
    return set(re.findall(r"^import time:.*\| +(\S+)$", ended.err, re.MULTILINE))


def check(imported: set[str], needed: set[str], *unneeded: set[str]) -> None:
    assert needed <= imported
    for group in (*unneeded, NEVER):
        assert not group & imported


def test_version_needs_git_and_no_more(command: Command) -> None:
    imported = list_imported(command, "version")
    check(imported, {"invoke", "buildkit.source.git"}, HTTP, RENDERING, PATTERNS, TERMINAL, PACKING)


def test_dockerfile_renders_and_does_not_pack(command: Command) -> None:
    command.run("version").succeed()
    imported = list_imported(command, "dockerfile", "--target", "source")
    # The labels have the commit's place in the history, which only git knows.
    check(imported, {"jinja2", "buildkit.source.git"}, HTTP, PATTERNS, TERMINAL, PACKING)


def test_context_packs_and_neither_renders_nor_sends(command: Command) -> None:
    command.run("version").succeed()
    command.run("dockerfile", "--target", "source").succeed()
    imported = list_imported(command, "context")
    check(imported, PACKING, HTTP, RENDERING, PATTERNS, TERMINAL)


def test_patterns_of_settings_need_pathspec(command: Command) -> None:
    check(list_imported(command, "version", "--exclude", "*.log"), PATTERNS, HTTP, RENDERING, TERMINAL, PACKING)


@pytest.mark.parametrize("arguments", [["--list"], ["--help", "context"], ["--complete", "--", "runtime-build con"]])
def test_help_and_completion_need_no_tools(command: Command, arguments: list[str]) -> None:
    imported = list_imported(command, *arguments)
    tools = {"buildkit.source.git", "buildkit.source.tree", "buildkit.template", "dotenv"}
    check(imported, {"invoke", "buildkit.cli"}, HTTP, RENDERING, PATTERNS, TERMINAL, PACKING, tools)


def test_what_a_task_imports_is_kept_as_bytecode(command: Command, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = tmp_path_factory.mktemp("bytecode")
    command.run("version", PYTHONPYCACHEPREFIX=str(kept), PYTHONDONTWRITEBYTECODE="").succeed()
    assert [*kept.rglob("buildkit/source/git.*.pyc")]
    command.run("version", PYTHONPYCACHEPREFIX=str(kept / "unwanted"), PYTHONDONTWRITEBYTECODE="1").succeed()
    assert not (kept / "unwanted").exists()
