"""What is found wrong with a tree before anything is built."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.checks import find_problems
from buildkit.command import parse_command
from buildkit.errors import LocalError, SettingError
from buildkit.models import Target
from buildkit.reference import parse_reference
from buildkit.settings import CiEnvironment, Settings
from buildkit.source.tree import SourceTree
from tests.checkouts import PROJECTS, commit_all, run_git

if TYPE_CHECKING:
    from buildkit.models import Problem

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4096\n"


@pytest.fixture
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkout of the project that the test names."""
    source = Path(shutil.copytree(PROJECTS / request.param, tmp_path / request.param))
    commit_all(source)
    return source


def project(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tree", [name], indirect=True)


def find(source: Path, **settings: Any) -> list[Problem]:
    chosen = {"target": Target("source"), **settings}
    if "server_command" in chosen:
        chosen["server_command"] = parse_command(chosen["server_command"], "SERVER_COMMAND")
    if "base_image" in chosen:
        chosen["base_image"] = parse_reference(chosen["base_image"], "BASE_IMAGE")
    return find_problems(SourceTree(source, Settings(**chosen), CiEnvironment()), Settings(**chosen))


def find_one(source: Path, **settings: Any) -> Problem:
    (problem,) = find(source, **settings)
    return problem


def write(source: Path, path: str, text: str = "") -> None:
    (source / path).parent.mkdir(parents=True, exist_ok=True)
    (source / path).write_text(text)


@pytest.mark.parametrize(
    ("tree", "settings"),
    [
        ("workspace-today", {}),
        ("workspace-october", {}),
        ("single-package", {"server_module": "tiny_server"}),
        ("poetry-app", {"server_command": "cook"}),
        ("pdm-app", {"server_module": "pdm_app"}),
        ("pdm-app", {"server_command": "pdm-app --port 8000"}),
        ("requirements-app", {"server_command": "uvicorn app.main:app --host 0.0.0.0"}),
        ("requirements-app", {"server_command": "python -m uvicorn app.main:app"}),
        ("requirements-app", {"server_command": "python /agent-server/app/main.py"}),
        ("requirements-app", {"server_command": "uvicorn --app-dir /agent-server/app main:app"}),
        ("setup-py", {"server_command": "tinyd"}),
        ("scm-package", {"server_command": "pair"}),
        ("scm-package", {"server_module": "http.server"}),
        ("scm-package", {"server_module": "iniconfig"}),
    ],
    indirect=["tree"],
)
def test_nothing_is_wrong_with_what_works(tree: Path, settings: dict[str, Any]) -> None:
    assert find(tree, **settings) == []


@pytest.mark.parametrize(
    ("tree", "settings", "message", "fix"),
    [
        (
            "requirements-app",
            {},
            "openhands.agent_server is neither packed",
            "SERVER_COMMAND='uvicorn app.main:app --host 0.0.0.0 --port 8000'",
        ),
        ("poetry-app", {"server_module": "cook_book"}, "cook_book is a package without __main__.py", "COMMAND=cook"),
        ("poetry-app", {"server_command": "uvicorn cook_book.app:app"}, "starts uvicorn", "SERVER_COMMAND=cook"),
        ("pdm-app", {"server_module": "pdm_ap"}, "pdm_ap is neither packed", "SERVER_MODULE=pdm_app"),
        ("setup-py", {}, "neither packed", "SERVER_COMMAND=tinyd or SERVER_COMMAND=tinyctl"),
        ("single-package", {"server_module": "tiny_server.gone"}, "neither packed", "SERVER_MODULE=tiny_server"),
        ("workspace-today", {"server_module": "openhands.sdk"}, "without __main__.py", "openhands.agent_server"),
    ],
    indirect=["tree"],
)
def test_a_server_that_cannot_be_found_is_an_error_with_examples(
    tree: Path, settings: dict[str, Any], message: str, fix: str
) -> None:
    problem = find_one(tree, **settings)
    assert problem.is_error
    assert message in problem.message
    assert fix in problem.fix


@project("requirements-app")
def test_a_server_may_come_with_another_package_if_nothing_is_locked(tree: Path) -> None:
    assert not find_one(tree, server_command="hypercorn app.main:app").is_error
    assert not find_one(tree, server_module="other.server").is_error
    assert find_one(tree, server_module="app.gone").is_error
    assert find_one(tree, server_command="uvicorn app.gone:app").is_error


@project("poetry-app")
def test_a_server_may_be_in_a_locked_package_of_that_name(tree: Path) -> None:
    assert find_one(tree).is_error
    (tree / "poetry.lock").write_text('[[package]]\nname = "openhands-agent-server"\nversion = "1"\n')
    assert find(tree) == []


@project("workspace-today")
def test_a_server_that_is_left_out_cannot_be_found(tree: Path) -> None:
    problems = find(tree, exclude=("openhands-agent-server/openhands/agent_server/__main__.py",))
    assert [problem.subject for problem in problems] == ["server"]


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ("nikolaik/python-nodejs:python3.13-nodejs22", "nikolaik/python-nodejs:python3.12-nodejs22"),
        ("python:3.9-slim", "python:3.10-slim"),
        ("localhost:5000/uv:0.5-py3.14", "localhost:5000/uv:0.5-py3.12"),
        (f"python:3.13@sha256:{'0' * 64}", "python:3.12"),
    ],
)
@project("scm-package")
def test_another_python_in_the_name_of_the_image_is_an_error(tree: Path, image: str, wanted: str) -> None:
    problem = find_one(tree, server_command="pair", base_image=image)
    assert problem.is_error
    assert ">=3.10,<3.13 is required" in problem.message
    assert problem.fix == f"set BASE_IMAGE={wanted}"
    assert find(tree, server_command="pair", base_image=wanted) == []


@pytest.mark.parametrize("image", ["debian", "python", "python:3", "python:3.12.4", "example/jython:3.14"])
@project("scm-package")
def test_an_image_whose_name_does_not_say_another_python_is_no_error(tree: Path, image: str) -> None:
    assert find(tree, server_command="pair", base_image=image) == []


@project("scm-package")
def test_python_comes_from_the_image_that_packages_are_built_in(tree: Path) -> None:
    builder = parse_reference("python:3.14", "BUILDER_IMAGE")
    problem = find_one(tree, server_command="pair", builder_image=builder)
    assert problem.fix == "set BUILDER_IMAGE=python:3.12"


@pytest.mark.parametrize(
    ("constraint", "accepted"),
    [("^3.12", True), ("~3.12", True), ("~3.11", False), ("^3.13", False), ("3.12.*", True), (">=3.8,<3.12", False)],
)
@project("poetry-app")
def test_constraints_of_poetry_are_understood(tree: Path, constraint: str, accepted: bool) -> None:
    text = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(text.replace("^3.11,<3.14", constraint))
    assert (find(tree, server_command="cook", base_image="python:3.12") == []) is accepted


@project("empty-lock")
def test_an_empty_lock_beside_a_full_one_is_an_error(tree: Path) -> None:
    problem = find_one(tree, server_module="empty_lock")
    assert problem.is_error
    assert problem.message == "uv.lock locks no package, but poetry.lock has 1"
    assert problem.fix == "delete uv.lock"
    (tree / "poetry.lock").unlink()
    assert "uv does not read Poetry's table" in find_one(tree, server_module="empty_lock").fix
    (tree / "requirements.txt").write_text("iniconfig\n")
    assert find_one(tree, server_module="empty_lock").fix == "delete uv.lock"


@project("single-package")
def test_a_lock_that_is_empty_although_there_are_dependencies_is_an_error(tree: Path) -> None:
    assert find(tree, server_module="tiny_server") == []
    text = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(text.replace("dependencies = []", 'dependencies = ["iniconfig>=2"]'))
    assert find_one(tree, server_module="tiny_server").fix == "run `uv lock`"


@project("single-package")
def test_dependencies_that_are_not_locked_are_a_warning(tree: Path) -> None:
    (tree / "uv.lock").unlink()
    assert find(tree, server_module="tiny_server") == []
    text = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(text.replace("dependencies = []", 'dependencies = ["iniconfig>=2"]'))
    problem = find_one(tree, server_module="tiny_server")
    assert not problem.is_error
    assert "`uv lock`" in problem.fix


def test_a_tree_whose_projects_are_further_down_names_them(tmp_path: Path) -> None:
    write(tmp_path, "server/pyproject.toml")
    write(tmp_path, "client/setup.py")
    write(tmp_path, ".ci/requirements.txt")
    assert find_one(tmp_path).fix == "set SOURCE_DIR=client or SOURCE_DIR=server"


@project("requirements-app")
def test_an_executable_of_a_script_needs_a_spec(tree: Path) -> None:
    command = "python /agent-server/app/main.py"
    assert find_one(tree, target=Target("binary"), server_command=command).subject == "spec"
    write(tree, "app.spec")
    commit_all(tree)
    assert find(tree, target=Target("binary"), server_command=command) == []
    problem = find_one(
        tree, target=Target("binary"), server_command=command, build_args={"PYINSTALLER_SPEC": "gone.spec"}
    )
    assert "gone.spec" in problem.message


@project("imports-beside")
def test_imports_of_what_is_not_packed_name_both(tree: Path) -> None:
    problems = find(tree, server_module="rag")
    assert [problem.message for problem in problems] == [
        "rag/__main__.py imports common, but common is not packed",
    ]
    assert not problems[0].is_error
    assert find(tree, server_module="rag", include=("/common/",)) == []


@pytest.mark.parametrize(
    ("statement", "module"),
    [
        ("from . import secret_module", "rag.secret_module"),
        ("from .secret_module import x", "rag.secret_module"),
        ("import rag.secret_module as s", "rag.secret_module"),
        ("from rag import (\n    other,\n    secret_module,\n)", "rag.secret_module"),
        ("    from rag.secret_module import x", "rag.secret_module"),
    ],
)
@project("imports-beside")
def test_every_form_of_an_import_is_seen(tree: Path, statement: str, module: str) -> None:
    write(
        tree, "rag/__main__.py", f"if True:\n    pass\n{statement}\n" if statement[0] != " " else f"if 1:\n{statement}"
    )
    write(tree, "rag/secret_module.py")
    write(tree, ".dockerignore", "rag/secret_module.py\n")
    problem = find_one(tree, server_module="rag")
    assert problem.message == f"rag/__main__.py imports {module}, but rag/secret_module.py is not packed"


@pytest.mark.parametrize(
    "text", ['"""import common"""\n', "# import common\n", "import commonplace\n", "import \ud7ff\n", "(" * 500]
)
@project("imports-beside")
def test_what_only_mentions_a_module_does_not_import_it(tree: Path, text: str) -> None:
    write(tree, "rag/__main__.py", text)
    assert find(tree, server_module="rag") == []


@project("imports-beside")
def test_a_folder_that_is_called_like_an_installed_package_is_not_what_is_imported(tree: Path) -> None:
    lock = (tree / "uv.lock").read_text()
    (tree / "uv.lock").write_text(f'{lock}\n[[package]]\nname = "common"\nversion = "1"\n')
    assert find(tree, server_module="rag") == []


@pytest.mark.parametrize(("folder", "is_error"), [("pair/vendor", True), ("docs/theme", False)])
@project("scm-package")
def test_submodules_that_are_not_checked_out(tree: Path, tmp_path: Path, folder: str, is_error: bool) -> None:
    write(tmp_path, "inner/m.py")
    commit_all(tmp_path / "inner")
    run_git(tree, "submodule", "--quiet", "add", str(tmp_path / "inner"), folder)
    commit_all(tree)
    assert find(tree, server_command="pair") == []
    run_git(tree, "submodule", "--quiet", "deinit", "--force", folder)
    (tree / folder).rmdir()
    problem = find_one(tree, server_command="pair")
    assert folder in problem.message
    assert problem.is_error is is_error
    assert find(tree, server_command="pair", exclude=(f"/{folder}/",)) == []


@project("scm-package")
def test_pointers_of_git_lfs(tree: Path) -> None:
    write(tree, "docs/demo.bin", POINTER)
    commit_all(tree)
    assert find(tree, server_command="pair") == []  # without attributes, it is a text like another
    write(tree, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    write(tree, "docs/true.bin", "x" * len(POINTER))
    run_git(tree, "-c", "filter.lfs.clean=cat", "add", "-A")
    assert not find_one(tree, server_command="pair").is_error
    write(tree, "pair/model.bin", POINTER)
    run_git(tree, "-c", "filter.lfs.clean=cat", "add", "-A")
    problem = find_one(tree, server_command="pair")
    assert problem.is_error
    assert problem.message.endswith(": docs/demo.bin, pair/model.bin")


@project("scm-package")
def test_links_that_lead_nowhere_and_to_what_is_not_packed(tree: Path) -> None:
    write(tree, "assets/logo.svg")
    (tree / "pair" / "fine").symlink_to("../assets")
    (tree / "pair" / "fine.svg").symlink_to("fine/logo.svg")
    commit_all(tree)
    assert find(tree, server_command="pair") == []
    (tree / "pair" / "dangling").symlink_to("gone")
    write(tree, ".dockerignore", "assets\n")
    commit_all(tree)
    assert [problem.message for problem in find(tree, server_command="pair")] == [
        "pair/dangling leads to gone, which does not exist",
        "pair/fine leads to assets, which is not packed",
        "pair/fine.svg leads to assets/logo.svg, which is not packed",
    ]


@project("scm-package")
def test_all_problems_are_found_at_once(tree: Path) -> None:
    (tree / "pair" / "out").symlink_to("../../elsewhere")
    write(tree, ".dockerignore", "requirements.txt\n")
    commit_all(tree)
    problems = find(tree, base_image="python:3.14")
    assert [problem.subject for problem in problems] == ["source", "links", "Python", "server"]
    assert all(problem.is_error for problem in problems)


@project("scm-package")
def test_a_dockerfile_of_the_sources_own_asks_for_nothing_else(tree: Path) -> None:
    write(tree, "Dockerfile.own", "FROM scratch\n")
    write(tree, ".dockerignore", "pair\n")
    (tree / "requirements.txt").unlink()
    commit_all(tree)
    assert find(tree, dockerfile="Dockerfile.own", target=Target(""), base_image="python:3.14") == []


@project("scm-package")
def test_a_dockerfile_that_is_missing_or_has_no_such_stage_is_reported(tree: Path) -> None:
    write(tree, "Dockerfile.own", "FROM scratch AS first\n")
    with pytest.raises(LocalError, match=r"Dockerfile\.gone"):
        find(tree, dockerfile="Dockerfile.gone", target=Target(""))
    with pytest.raises(SettingError, match="'second' is not a stage"):
        find(tree, dockerfile="Dockerfile.own", target=Target("second"))
    with pytest.raises(SettingError, match="NAME"):
        find(tree, dockerfile="Dockerfile.own", target=Target("first"), build_args={"NAME": "x"})
    assert find(tree, dockerfile="Dockerfile.own", target=Target("first")) == []


@project("setup-py")
def test_projects_are_looked_for_in_two_levels(tree: Path) -> None:
    (tree / "services/web").mkdir(parents=True)
    (tree / "setup.py").rename(tree / "services/web/setup.py")
    commit_all(tree)
    assert find_one(tree, server_command="tinyd").fix == "set SOURCE_DIR=services/web"
    write(tree, "api/requirements.txt", "six\n")
    commit_all(tree)
    assert find_one(tree, server_command="tinyd").fix == "set SOURCE_DIR=api"


@project("scm-package")
def test_a_package_whose_project_file_is_left_out_is_not_installed(tree: Path) -> None:
    write(tree, ".dockerignore", "pyproject.toml\n")
    assert "starts pair" in find_one(tree, server_command="pair").message  # which installing it would bring
    assert find(tree, server_module="pair.main") == []
    write(tree, ".dockerignore", "pyproject.toml\nrequirements.txt\n")
    assert find(tree, server_module="pair.main")[0].fix == "set INCLUDE=/requirements.txt"
