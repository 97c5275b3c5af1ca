"""The commands that are suggested for a server that cannot be found, and the path of its health check."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.checks import find_problems
from buildkit.settings import CiEnvironment, Settings
from buildkit.source.tree import SourceTree
from tests.checkouts import PROJECTS, commit_all

if TYPE_CHECKING:
    from collections.abc import Callable

    Suggest = Callable[..., str]

ALSO = "; also set HEALTH_PATH={} because no file mentions /health"


@pytest.fixture
def suggest(tmp_path: Path) -> Suggest:
    """A function that returns what is suggested for a project, with some of its files written anew."""

    def make(project: str, files: dict[str, str] | None = None, health_path: str = "/health") -> str:
        source = Path(shutil.copytree(PROJECTS / project, tmp_path / project))
        for path, text in (files or {}).items():
            (source / path).write_text(text)
        commit_all(source)
        chosen = Settings(server_module="gone", health_path=health_path)
        problems = find_problems(SourceTree(source, chosen, CiEnvironment()), chosen)
        (fix,) = (problem.fix for problem in problems if problem.subject == "server")
        return fix

    return make


def test_a_script_is_given_the_options_that_its_package_has(suggest: Suggest) -> None:
    first = "SERVER_COMMAND='tidy-web --host=0.0.0.0 --port=8000' or SERVER_COMMAND=tidy-admin"
    assert suggest("old-lock") == f"set what starts the server, on 0.0.0.0:8000: {first}{ALSO.format('/')}"


@pytest.mark.parametrize("option", ["address", "bind", "ip"])
def test_the_option_for_the_address_has_several_names(suggest: Suggest, option: str) -> None:
    cli = f'OPTIONS = ["--{option}", "--port"]\n'
    assert f"'tidy-web --{option}=0.0.0.0 --port=8000'" in suggest("old-lock", {"tidy_web/cli.py": cli})


def test_a_script_without_these_options_comes_as_it_is(suggest: Suggest) -> None:
    assert "SERVER_COMMAND=tidy-web or" in suggest("old-lock", {"tidy_web/cli.py": 'OPTIONS = ["--host"]\n'})


def test_a_page_of_streamlit_is_run_where_it_is(suggest: Suggest) -> None:
    command = (
        "cd /agent-server && streamlit run Home.py --server.address 0.0.0.0 --server.port 8000 --server.headless true"
    )
    assert suggest("streamlit-pages").endswith(f": SERVER_COMMAND='{command}'{ALSO.format('/_stcore/health')}")


def test_an_application_with_relative_files_starts_where_they_are(suggest: Suggest) -> None:
    command = "cd /agent-server && uvicorn main:app --host 0.0.0.0 --port 8000"
    assert suggest("relative-files").endswith(f": SERVER_COMMAND='{command}'{ALSO.format('/docs')}")


def test_a_fastapi_without_the_extra_brings_no_server(suggest: Suggest) -> None:
    assert "SERVER_COMMAND=" not in suggest("relative-files", {"requirements.txt": "fastapi==0.115.0\n"})


@pytest.mark.parametrize("route", ['@app.get("/")', '@app.api_route("/", methods=["GET"])'])
def test_an_application_with_a_root_is_asked_there(suggest: Suggest, route: str) -> None:
    code = f"from fastapi import FastAPI\n\napp = FastAPI()\n\n\n{route}\ndef root() -> str:\n    return 'x'\n"
    assert suggest("relative-files", {"main.py": code}).endswith(ALSO.format("/"))


def test_an_application_that_a_function_makes_is_found(suggest: Suggest) -> None:
    code = "from fastapi import FastAPI\n\n\ndef get_app() -> FastAPI:\n    return FastAPI()\n\n\napp = get_app()\n"
    assert "'uvicorn main:app " in suggest("relative-files", {"main.py": code})


def test_a_script_comes_before_the_development_server_of_flask(suggest: Suggest) -> None:
    lock = '[[package]]\nname = "flask"\nversion = "3.0.0"\n'
    application = "from flask import Flask\n\napp = Flask(__name__)\n"
    fix = suggest("poetry-app", {"poetry.lock": lock, "cook_book/web.py": application})
    assert "SERVER_COMMAND=cook or SERVER_COMMAND='flask --app cook_book.web:app run " in fix


@pytest.mark.parametrize("route", ["/healthcheck/?", "/healthcheck", "/healthcheck/"])
def test_a_health_check_of_another_name_is_found(suggest: Suggest, route: str) -> None:
    assert suggest("old-lock", {"tidy_web/admin.py": f'ROUTE = r"{route}"\n'}).endswith(ALSO.format("/healthcheck"))


def test_a_health_check_that_is_there_or_chosen_is_left_alone(suggest: Suggest) -> None:
    assert "HEALTH_PATH" not in suggest("requirements-app")
    assert "HEALTH_PATH" not in suggest("old-lock", health_path="/ping")
