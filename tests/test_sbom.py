"""The SBOM of a context: what is locked, whatever locks it, the same bytes each time, and valid CycloneDX."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import LocalError
from buildkit.models import BuildContext
from buildkit.sbom import Sbom, render_sbom
from buildkit.source.dependencies import find_dependencies
from buildkit.source.locked import Locked, LockedFile, LockedPackage, read_locked
from tests.steps import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Command

CONTEXT = BuildContext(VERSION.archive, "a" * 64, 1, "c" * 64, 1, 1, {"name": "zlib"})
DIGEST = "sha256:" + "ab" * 32
PROJECT = '[project]\nname = "app"\nversion = "1"\ndependencies = ["Flask[async]>=3"]\n'
# Each as its tool writes it, shortened.
LOCKS = {
    "uv.lock": f"""
version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "app"
version = "1"
source = {{ editable = "." }}
dependencies = [
    {{ name = "flask", extra = ["async"] }},
]

[[package]]
name = "asgiref"
version = "3.8.1"
source = {{ registry = "https://registry.example/simple" }}
sdist = {{ url = "https://registry.example/asgiref-3.8.1.tar.gz#x", hash = "{DIGEST}", size = 35186 }}

[[package]]
name = "flask"
version = "3.1.0"
source = {{ registry = "https://registry.example/simple" }}
dependencies = [
    {{ name = "asgiref" }},
    {{ name = "tzdata", marker = "sys_platform == 'win32'" }},
]
wheels = [
    {{ url = "https://registry.example/flask-3.1.0-py3-none-any.whl", hash = "{DIGEST}", size = 102979 }},
]
""",
    "pylock.toml": f"""
lock-version = "1.0"
created-by = "some-tool"

[[packages]]
name = "app"
directory = {{ path = ".", editable = true }}
dependencies = [{{ name = "flask" }}]

[[packages]]
name = "asgiref"
version = "3.8.1"
sdist = {{ name = "asgiref-3.8.1.tar.gz", hashes = {{ sha256 = "{DIGEST[7:]}" }} }}

[[packages]]
name = "flask"
version = "3.1.0"
dependencies = [{{ name = "asgiref" }}]
wheels = [
    {{ url = "https://registry.example/flask-3.1.0-py3-none-any.whl", hashes = {{ sha256 = "{DIGEST[7:]}" }} }},
]
""",
    "poetry.lock": f"""
[[package]]
name = "asgiref"
version = "3.8.1"
optional = false
files = [
    {{file = "asgiref-3.8.1.tar.gz", hash = "{DIGEST}"}},
]

[[package]]
name = "Flask"
version = "3.1.0"
optional = false
files = [
    {{file = "flask-3.1.0-py3-none-any.whl", hash = "{DIGEST}"}},
]

[package.dependencies]
asgiref = {{version = ">=3.2", optional = true, markers = "extra == 'async'"}}

[[package]]
name = "beside"
version = "1"
files = []

[package.source]
type = "directory"
url = "../beside"

[metadata]
lock-version = "2.1"
""",
    "pdm.lock": f"""
[metadata]
groups = ["default"]
lock_version = "4.5.0"

[[package]]
name = "asgiref"
version = "3.8.1"
files = [
    {{file = "asgiref-3.8.1.tar.gz", hash = "{DIGEST}"}},
]

[[package]]
name = "flask"
version = "3.1.0"
extras = ["async"]
dependencies = [
    "asgiref>=3.2",
]
files = [
    {{file = "flask-3.1.0-py3-none-any.whl", hash = "{DIGEST}"}},
]
""",
}
PACKAGES = (
    LockedPackage("asgiref", "3.8.1", (LockedFile("asgiref-3.8.1.tar.gz", "sha256", "ab" * 32),)),
    LockedPackage("flask", "3.1.0", (LockedFile("flask-3.1.0-py3-none-any.whl", "sha256", "ab" * 32),), ("asgiref",)),
)
REQUIREMENTS = f"""
# frozen
--index-url https://registry.example/simple
-r base.txt
Flask[async]==3.1.0 ; python_version >= "3.9" \\
    --hash={DIGEST} \\
    --hash=md5:abcd  # via app
"""


def read(folder: Path, files: dict[str, str]) -> Locked:
    for name, text in files.items():
        (folder / name).write_text(text)
    settings = {"project": {"name": "app", "dependencies": ["flask"]}}
    return read_locked(folder, find_dependencies(folder, settings))


def render(locked: Locked) -> str:
    return render_sbom(Sbom("app", locked), VERSION, CONTEXT)


def find_schema_error(sbom: str) -> object:
    """Return how a text breaks the schema of CycloneDX, or None."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom)


@pytest.mark.parametrize("name", LOCKS)
def test_every_lock_file_says_the_same(tmp_path: Path, name: str) -> None:
    locked = read(tmp_path, {"pyproject.toml": PROJECT, name: LOCKS[name]})
    assert [package._replace(needs=()) for package in locked.packages] == [
        package._replace(needs=()) for package in PACKAGES
    ]
    assert "asgiref" in locked.packages[1].needs
    assert locked.direct == {"flask"}
    assert find_schema_error(render(locked)) is None


def test_pinned_requirements_are_a_lock(tmp_path: Path) -> None:
    locked = read(tmp_path, {"requirements.txt": REQUIREMENTS, "base.txt": "asgiref==3.8.1\r\n"})
    assert [(package.name, package.version) for package in locked.packages] == [
        ("asgiref", "3.8.1"),
        ("flask", "3.1.0"),
    ]
    assert LockedFile("", "sha256", "ab" * 32) in locked.packages[1].files
    assert find_schema_error(render(locked)) is None


@pytest.mark.parametrize("line", ["flask>=3", "flask", "flask==3.*", "flask @ https://h/flask.zip", "flask==3,!=3.1"])
def test_what_is_not_pinned_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(LocalError, match=r"requirements\.txt does not pin flask"):
        read(tmp_path, {"requirements.txt": f"asgiref==3.8.1\n{line}\n"})


def test_a_constraint_pins_what_a_requirement_leaves_open(tmp_path: Path) -> None:
    files = {"requirements.txt": "-c pins.txt\nflask\n", "pins.txt": "flask==3.1.0\n"}
    assert [package.version for package in read(tmp_path, files).packages] == ["3.1.0"]


def test_a_project_without_a_lock_has_no_sbom(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"pyproject\.toml locks no versions"):
        read(tmp_path, {"pyproject.toml": PROJECT})


def test_an_sbom_has_digests_and_dependencies_but_no_time_and_no_host(tmp_path: Path) -> None:
    text = render(read(tmp_path, {"pyproject.toml": PROJECT, "uv.lock": LOCKS["uv.lock"]}))
    record = json.loads(text)
    assert [component["purl"] for component in record["components"]] == [
        "pkg:pypi/asgiref@3.8.1",
        "pkg:pypi/flask@3.1.0",
    ]
    depends = {entry["ref"]: entry.get("dependsOn", []) for entry in record["dependencies"]}
    assert depends[VERSION.name] == ["pkg:pypi/flask@3.1.0"]
    assert depends["pkg:pypi/flask@3.1.0"] == ["pkg:pypi/asgiref@3.8.1"]
    assert record["components"][1]["externalReferences"][0]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert "timestamp" not in record["metadata"]
    assert "registry.example" not in text


def test_the_same_context_has_the_same_sbom_and_another_one_another_number(tmp_path: Path) -> None:
    locked = read(tmp_path, {"pyproject.toml": PROJECT, "uv.lock": LOCKS["uv.lock"]})
    assert render(locked) == render(locked)
    other = render_sbom(Sbom("app", locked), VERSION, replace(CONTEXT, context_sha256="d" * 64))
    numbers = [json.loads(text)["serialNumber"] for text in (render(locked), other)]
    assert numbers[0] != numbers[1]


@pytest.mark.parametrize("task", ["all", "context"])
def test_the_command_writes_it_next_to_the_context_and_clean_removes_it(command: Command, task: str) -> None:
    path = command.output / "sbom.cdx.json"
    command.run("version", "dockerfile", "context").succeed()
    command.run(task, "--sbom").succeed()
    first = path.read_bytes()
    assert json.loads(first)["metadata"]["properties"][0]["value"] == command.read_state("context")["context_sha256"]
    command.run(task, "--sbom").succeed()
    assert path.read_bytes() == first
    command.run("clean").succeed()
    assert not path.exists()


def test_packing_without_it_removes_the_one_of_an_earlier_context(command: Command) -> None:
    command.run("all", "--sbom").succeed()
    command.run("context").succeed()
    assert not (command.output / "sbom.cdx.json").exists()


def test_nothing_is_packed_if_nothing_is_locked(command: Command) -> None:
    (command.checkout / "requirements.txt").write_text("flask\n")
    command.run("all", "--sbom", REQUIREMENTS="requirements.txt").fail(3, "requirements.txt does not pin flask")
    assert not list(command.output.glob("*.tar.gz"))
