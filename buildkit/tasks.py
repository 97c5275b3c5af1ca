"""The invoke collection: what can be typed, and what each task prints.

Another project's `tasks.py` needs two lines:

    from buildkit.tasks import make_collection
    ns = make_collection(__file__, SOURCE_DIR="server")
"""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from invoke import Collection, Context, Task

from buildkit import pipeline
from buildkit.config import Settings
from buildkit.errors import RuntimeBuildError
from buildkit.session import Session, ending_well, open_session
from buildkit.state import format_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.models import StepResult

_COMMON = ("output_dir", "source_dir")
_SELECTING = ("include", "exclude")
_NAMING = ("custom_tags", "output_name", "git_sha", "allow_dirty")
_RENDERING = (
    "target",
    "base_image",
    "build_args",
    "extra_packages",
    "features",
    "git_ref",
    "template_dir",
    "pyinstaller_spec",
    "dockerfile",
)
_PACKING = ("compression", "max_context_bytes")
_SENDING = ("runtime_api_url", "image_name", "target_image", "upload_format", "force")
_WAITING = ("build_timeout", "poll_interval")
_OPTIONS = {
    "json": "print the step's state file instead, errors too",
    "no_cache": "read every file again, though nothing seems to have changed",
    "files": "show every file that is packed with its size, largest first; packs nothing",
    "explain": "say which rule packs or refuses this path; packs nothing",
    "build_id": "the build to ask for, instead of the one that `upload` started",
}


class Outcome(NamedTuple):
    """What a task prints: a line, or with `--json` a state file."""

    text: str
    result: StepResult | None = None
    code: int = 0


def _make_task(
    body: Callable[..., Outcome], *setting_names: str, options: tuple[str, ...] = (), name: str | None = None
) -> Task[Any]:
    """Return an invoke task with a flag for each setting and option; its body is given an open session."""
    metadata = {item.name: item.metadata for item in fields(Settings)}
    names = tuple(dict.fromkeys((*_COMMON, *setting_names)))
    switches = {setting: metadata[setting]["default"] == "true" for setting in names if _is_switch(setting)}

    @wraps(body)
    def run(c: Context, **given: Any) -> None:
        flags = {setting.upper(): str(given[setting]) for setting in names if given[setting] not in (None, switches.get(setting))}
        chosen = {option: given[option] for option in options}
        with ending_well(as_json=given["json"]) as sessions:
            own = c.config.get("runtime_build", {})
            session = open_session(flags, Path(own["root"]) if "root" in own else None, dict(own.get("defaults", {})))
            sessions.append(session)
            outcome = body(session, **chosen)
            as_state = given["json"] and outcome.result is not None
            session.console.show(format_state(outcome.result).rstrip() if as_state and outcome.result else outcome.text)
            if outcome.code:
                raise SystemExit(outcome.code)

    defaults = {option: None if option in {"explain", "build_id"} else False for option in (*options, "json")}
    flags = {setting: switches.get(setting) for setting in names} | defaults
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # invoke reads its flags from here
        [inspect.Parameter("c", kind), *(inspect.Parameter(flag, kind, default=value) for flag, value in flags.items())]
    )
    texts = {setting: metadata[setting]["meaning"] for setting in names} | {option: _OPTIONS[option] for option in defaults}
    return Task(run, name=name or body.__name__, auto_shortflags=False, help={flag.replace("_", "-"): text for flag, text in texts.items()})


def _is_switch(setting: str) -> bool:
    return {item.name: item.type for item in fields(Settings)}[setting] == "bool"


def version(session: Session) -> Outcome:
    """Say which source this is: prints the name of its archive."""
    with session.writing():
        made = pipeline.make_version(session)
    return Outcome(made.name, made)


def dockerfile(session: Session) -> Outcome:
    """Render the Dockerfile of the target, and instructions beside it: prints its path."""
    with session.writing():
        made = pipeline.make_dockerfile(session)
    return Outcome(session.show_path(session.directory / "Dockerfile"), made)


def context(session: Session, *, no_cache: bool, files: bool, explain: str | None) -> Outcome:
    """Pack the source and the Dockerfile into one reproducible tar.gz: prints its path."""
    if explain is not None:
        return Outcome(pipeline.explain_path(session, explain))
    if files:
        return Outcome(pipeline.describe_files(session))
    with session.writing():
        made = pipeline.make_context(session, use_cache=not no_cache)
    return Outcome(session.show_path(session.directory / made.archive), made)


def upload(session: Session) -> Outcome:
    """Send the archive to the Runtime API, which builds it: prints the build ID."""
    with session.writing():
        made = pipeline.make_submission(session)
    return Outcome(str(made.build_id), made)


def wait(session: Session, *, build_id: str | None) -> Outcome:
    """Wait until the build has ended: prints the image reference."""
    with session.writing():
        made = pipeline.await_image(session, build_id)
    return Outcome(made.image or "", made)


def all_(session: Session) -> Outcome:
    """Do it all: prints the image reference, or the archive's path where nothing is sent."""
    with session.writing():
        pipeline.clear_output(session, whole=False) if session.settings.clean_output else None
        pipeline.make_version(session)
        pipeline.make_dockerfile(session)
        made = pipeline.make_context(session)
        archive = session.show_path(session.directory / made.archive)
        if session.settings.runtime_api_url is None:
            session.console.report("nothing was sent: RUNTIME_API_URL is not set")
            session.console.report(f"to build it by hand: docker build -t {session.settings.server_name} - < {archive}")
            return Outcome(archive, made)
        pipeline.make_submission(session)
        result = pipeline.await_image(session)
    return Outcome(result.image or "", result)


def logs(session: Session, *, build_id: str | None) -> Outcome:
    """Show the log of a build, where the Runtime API has it."""
    return Outcome(pipeline.show_logs(session, build_id))


def clean(session: Session) -> Outcome:
    """Remove what was written to the output directory, and nothing else."""
    with session.locked():
        pipeline.clear_output(session, whole=True)
    return Outcome(session.show_path(session.directory))


def doctor(session: Session) -> Outcome:
    """Look whether everything is in place: git, source, settings, Runtime API, disk."""
    findings = pipeline.examine(session)
    session.console.show_findings(findings)
    failed = [finding for finding in findings if not finding.ok]
    text = json.dumps({"schema": 1, "findings": [vars(finding) for finding in findings]}, indent=2)
    return Outcome(text, None, max((finding.exit_code for finding in failed), default=0))


def make_collection(tasks_file: str | None = None, **defaults: str) -> Collection:
    """Return the tasks for a project.

    Args:
        tasks_file: The project's own `tasks.py` (`__file__`): its folder is where `.env` lies and relative paths
            start. Without it, that is the checkout around the working directory.
        defaults: This project's own defaults for settings, by variable name.
    """
    everything = (*_NAMING, *_SELECTING, *_RENDERING, *_PACKING, *_SENDING, *_WAITING)
    tasks = [
        _make_task(version, *_NAMING, *_SELECTING),
        _make_task(dockerfile, *_RENDERING),
        _make_task(context, *_SELECTING, *_PACKING, options=("no_cache", "files", "explain")),
        _make_task(upload, *_SENDING),
        _make_task(wait, "runtime_api_url", *_WAITING, options=("build_id",)),
        _make_task(all_, "clean_output", *everything, name="all"),
        _make_task(logs, "runtime_api_url", options=("build_id",)),
        _make_task(clean, "force"),
        _make_task(doctor, *everything),
    ]
    collection = Collection()
    for task in tasks:
        collection.add_task(task)
    own: dict[str, Any] = {"defaults": defaults}
    if tasks_file is not None:
        own["root"] = str(Path(tasks_file).resolve().parent)
    collection.configure({"runtime_build": own})
    return collection
