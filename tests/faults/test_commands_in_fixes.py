"""Row 81: every command that a message suggests exists as it is written, and does what the message promises."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from invoke.exceptions import ParseError
from invoke.parser import Parser
from invoke.program import Program

import buildkit
from buildkit import cli
from buildkit.models import StepResult
from buildkit.task import TASKS
from tests.misbehaviour import answer
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.commands import Command, Ended
    from tests.runtime_api import RuntimeApiServer

pytestmark = pytest.mark.fault

PACKAGE = Path(buildkit.__file__).parent
VIRTUAL = {"virtual_time": True}
STEPS = sorted({kind.step for kind in StepResult.__subclasses__()})
WRITTEN_OUT = re.compile(rf"\b(?:invoke|runtime-build) (?:{'|'.join(TASKS)}|--list|--help)\b")
# What an expression in the place of an argument may stand for.
VALUE = "0"


class Suggestion(NamedTuple):
    """A call of `errors.run`, and a command line that it can produce."""

    place: str
    words: tuple[str, ...]


def find_suggestions() -> Iterator[Suggestion]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run":
                place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                for words in itertools.product(*(expand(argument) for argument in node.args)):
                    yield Suggestion(place, tuple(itertools.chain(*words)))


def expand(argument: ast.expr) -> list[list[str]]:
    """Return the words that an argument can stand for."""
    match argument:
        case ast.Constant(value=str(text)):
            return [text.split()]
        case ast.IfExp(body=body, orelse=orelse):
            return expand(body) + expand(orelse)
        case ast.Attribute(attr="step"):
            return [[step] for step in STEPS]
        case ast.Starred():
            return [[]]
    return [[VALUE]]


@cache
def make_parser(program: str) -> Parser:
    """Return invoke's own parser of the command line."""
    collection = cli.make_collection(None, {}, program=program)
    return Parser(initial=Program(namespace=collection).initial_context, contexts=collection.to_contexts())


@pytest.mark.parametrize("program", ["runtime-build", "invoke"])
def test_81_every_suggested_command_exists(program: str) -> None:
    suggestions = set(find_suggestions())
    assert len({suggestion.words for suggestion in suggestions}) > 20
    assert not [suggestion for suggestion in sorted(suggestions) if not exists(program, suggestion.words)]


def exists(program: str, words: tuple[str, ...]) -> bool:
    """Return whether invoke takes the words as a command line of ours."""
    try:
        parsed = make_parser(program).parse_argv(list(words))
    except ParseError:
        return False
    return any(context.name for context in parsed) or words[0] in {"--list", "--help"}


def test_81_no_command_is_written_out_by_hand() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_bytes())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        found += [
            f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documentation
            and WRITTEN_OUT.search(node.value)
        ]
    assert not found


def list_commands(ended: Ended, program: str) -> list[list[str]]:
    """Return the commands of ours that the fix of an error suggests."""
    fix = ended.err.splitlines()[-1]
    assert fix.startswith("fix:   ")
    return [shlex.split(text)[1:] for text in re.findall(r"`([^`]+)`", fix) if text.split()[0] == program]


@pytest.fixture(params=["runtime-build", "invoke"])
def program(request: pytest.FixtureRequest, command: Command) -> str:
    """How the command is started: on its own, or by invoke with the project's own tasks."""
    name: str = request.param
    if name == "invoke":
        (command.checkout / "tasks.py").write_text(
            "from buildkit.tasks import make_collection\n\nns = make_collection(__file__)\n"
        )
        command.program = (sys.executable, "-m", "invoke")
        command.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return name


def follow(command: Command, ended: Ended, program: str) -> list[Ended]:
    """Run what the fix suggests, in its order."""
    suggested = list_commands(ended, program)
    assert suggested, ended.err
    return [command.run(*words) for words in suggested]


# A start of invoke takes half a second, and these need many.
OFTEN = pytest.mark.parametrize(
    "program", ["runtime-build", pytest.param("invoke", marks=pytest.mark.slow)], indirect=True
)


@OFTEN
@pytest.mark.parametrize("task", rest_is_slow(["upload", "logs", "dockerfile", "context", "wait"], 2))
def test_81_missing_steps_can_be_made_up_one_by_one(
    command: Command, server: RuntimeApiServer, program: str, task: str
) -> None:
    command.use(server)
    for _ in range(20):
        ended = command.run(task)
        if ended.code == 0:
            return
        assert ended.code == 3, ended.err
        waiting = [ended]
        while waiting and waiting[-1].code == 3:
            (words, *_) = list_commands(waiting[-1], program)
            waiting.append(command.run(*words))
        waiting[-1].succeed()
    pytest.fail(f"{task} never succeeds")


@OFTEN
@pytest.mark.parametrize("name", ["version.json", "dockerfile.json", "context.json", "Dockerfile"])
def test_81_damaged_file_is_made_again_by_the_suggested_task(
    command: Command, server: RuntimeApiServer, program: str, name: str
) -> None:
    command.run("all").succeed()
    command.use(server)
    (command.output / name).write_text("damaged")
    for _ in range(5):
        ended = command.run("upload")
        if ended.code == 0:
            return
        for done in follow(command, ended.fail(3), program):
            assert done.code in {0, 3}, done.err
    pytest.fail("upload never succeeds")


@OFTEN
def test_81_unknown_outcome_is_submitted_again(command: Command, server: RuntimeApiServer, program: str) -> None:
    command.use(server)
    server.script("POST /build", answer(504))
    ended = command.run("all").fail(5, "--force")
    (done,) = follow(command, ended, program)
    done.succeed()
    command.run("wait").succeed()


def test_81_watching_is_resumed(command: Command, server: RuntimeApiServer, program: str) -> None:
    command.use(server)
    server.statuses[0] = "RUNNING"
    ended = command.run("all", "--build-timeout", "1").fail(7)
    server.statuses[0] = "SUCCESS"
    (done,) = follow(command, ended, program)
    assert done.succeed().result == server.builds[0].target_image


@OFTEN
def test_81_log_of_a_failed_build_is_shown(command: Command, server: RuntimeApiServer, program: str) -> None:
    command.use(server)
    server.statuses[0] = "FAILURE"
    (done,) = follow(command, command.run("all").fail(6), program)
    assert done.succeed().out == "step 1\nstep 2\n"


@OFTEN
@pytest.mark.parametrize("status", [401, 404, 413, 415])
def test_81_refused_upload_is_looked_into(
    command: Command, server: RuntimeApiServer, program: str, status: int
) -> None:
    command.use(server)
    server.script("POST /build", answer(status))
    for done in follow(command, command.run("all").fail(4), program):
        done.succeed()


def test_81_typing_error_leads_to_help(command: Command) -> None:
    for words in list_commands(command.run("contxt").fail(2), "runtime-build"):
        command.run(*[word.replace("TASK", "context") for word in words]).succeed()


@OFTEN
def test_81_open_submission_is_explained(command: Command, server: RuntimeApiServer, program: str) -> None:
    command.use(server)
    command.run("all", "--no-wait").succeed()
    shown = command.run("clean").succeed().err
    for text in re.findall(r"`([^`]+)`", shown):
        assert shlex.split(text)[0] == program
        command.run(*shlex.split(text)[1:]).succeed()
    assert "wait" in shown
    assert "--force" in shown


DEFECT = """
from buildkit import cli
from buildkit.task import TASKS
from buildkit.errors import BuildFailed
from buildkit.task import Outcome, Run, Task

def main(this: Run) -> Outcome:
    \"\"\"Fail in a way that nobody has thought of.\"\"\"
    {statement}

def lines():
    yield "first"
    raise KeyError("later")

ns = cli.make_collection(__file__, {{}})
ns.add_task(cli.make_task(Task("broken", main)))
"""
STATEMENTS = {
    "division": "return 1 / 0",
    "key": "return {}['k3y+with/odd=chars&of-its-own \\x1b[31m']",
    "recursion": "return main(this)",
    "memory": "raise MemoryError",
    "assertion": "raise AssertionError",
    "type": "return None",
    "while printing": "return Outcome(lines(), {'lines': lines()})",
    "group": "raise ExceptionGroup('several', [ValueError('a'), KeyError('b')])",
    "unicode": "return '\\udcff'.encode()",
    "lookup": "raise LookupError('\\n'.join('x' * 5000 for _ in range(100)))",
}


@pytest.mark.parametrize("defect", rest_is_slow(STATEMENTS, 4))
def test_70_defect_of_ours_is_two_lines_and_exit_70(command: Command, defect: str) -> None:
    (command.checkout / "tasks.py").write_text(DEFECT.format(statement=STATEMENTS[defect]))
    command.program = (sys.executable, "-m", "invoke")
    command.environment |= {"PYTHONDONTWRITEBYTECODE": "1", "RUNTIME_API_URL": "http://127.0.0.1:9"}
    command.environment["RUNTIME_API_KEY"] = command.secret
    ended = command.run("broken", "--json").fail(70, "internal error", "invoke doctor", "report it")
    assert len(ended.err.splitlines()) == 2
    assert ended.record["exit_code"] == 70
