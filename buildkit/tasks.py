"""The invoke collection: what can be typed, and what each task prints.

Another project's `tasks.py` needs two lines:

    from buildkit.tasks import make_collection
    ns = make_collection(__file__, SOURCE_DIR="server")
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from invoke.collection import Collection

from buildkit.command import CONFIG_KEY, Option, Outcome, make_task
from buildkit.display import escape_controls, format_size
from buildkit.errors import BuildFailed
from buildkit.pipeline import local, packing, remote, upkeep
from buildkit.session import Session  # noqa: TC001 - invoke reads the signatures

_SELECTING = ("include", "exclude")
_NAMING = ("custom_tags", "output_name", "git_sha", "allow_dirty")
_RENDERING = (
    "target",
    "base_image",
    "build_args",
    "extra_packages",
    "features",
    "git_ref",
    "source_url",
    "template_dir",
    "pyinstaller_spec",
    "split_executable",
    "dockerfile",
)
_PACKING = ("compression", "max_context_bytes")
_SENDING = ("runtime_api_url", "image_name", "target_image", "upload_format", "force")
_WAITING = ("build_timeout", "poll_interval")
_ALL = (*_NAMING, *_SELECTING, *_RENDERING, *_PACKING, *_SENDING, *_WAITING)
_ENGINE = ("engine", "builder")
_SERVER = ("server_module", "server_name", "server_port", "health_timeout")
_MANIFEST = (
    "manifest_name",
    "manifest_port",
    "manifest_replicas",
    "manifest_secret_name",
    "manifest_secret_key",
    "template_dir",
)

_NO_CACHE = Option("no_cache", "read every file again, though nothing seems to have changed")
_NO_WAIT = Option("no_wait", "stop when the build has been asked for: prints the build ID")
_FILES = Option("files", "show every file that is packed with its size, largest first; packs nothing")
_EXPLAIN = Option("explain", "say which rule packs or refuses this path; packs nothing", takes_value=True)
_BUILD_ID = Option("build_id", "the build to ask for, instead of the one that `upload` started", takes_value=True)
_IMAGE = Option("image", "an image reference, instead of the image that was built last", takes_value=True)


def version(session: Session) -> Outcome:
    """Say which source this is: prints the name of its archive."""
    session.check_folders()
    with session.writing():
        made = packing.make_version(session)
    return Outcome(made.name, made)


def dockerfile(session: Session) -> Outcome:
    """Render the Dockerfile of the target, and instructions beside it: prints its path."""
    session.check_folders()
    with session.writing():
        made = packing.make_dockerfile(session)
    return Outcome(session.show_path(session.directory / "Dockerfile"), made)


def context(session: Session, *, no_cache: bool, files: bool, explain: str | None) -> Outcome:
    """Pack the source and the Dockerfile into one reproducible tar.gz: prints its path."""
    if explain is not None:
        return _explain(session, explain)
    if files:
        return _list_files(session)
    session.check_folders()
    with session.writing():
        made = packing.make_context(session, use_cache=not no_cache)
    return Outcome(session.show_path(session.directory / made.archive), made)


def upload(session: Session) -> Outcome:
    """Send the archive to the Runtime API, which builds it: prints the build ID."""
    remote.require_api(session)
    with session.writing():
        made = remote.make_submission(session)
    return Outcome(str(made.build_id), made)


def wait(session: Session, *, build_id: str | None) -> Outcome:
    """Wait until the build has ended: prints the image reference."""
    remote.require_api(session)
    with session.writing():
        made = remote.await_image(session, build_id)
    return Outcome(made.image or "", made)


def all_(session: Session, *, no_wait: bool) -> Outcome:
    """Do it all: prints the image reference, or the archive's path where nothing is sent."""
    settings, report = session.settings, session.console.report
    session.check_folders()
    with session.writing():
        upkeep.prepare_output(session)
        packing.make_version(session)
        packing.make_dockerfile(session)
        made = packing.make_context(session)
        if settings.runtime_api_url is None:
            archive = session.show_path(session.directory / made.archive)
            report("nothing was sent: RUNTIME_API_URL is not set")
            report(f"to build it by hand: docker build -t {settings.server_name} - < {archive}")
            return Outcome(archive, made)
        result = remote.find_built(session)
        if result is None:
            submission = remote.make_submission(session)
            if no_wait:
                report("the build goes on; `invoke wait` comes back to it")
                return Outcome(str(submission.build_id), submission)
            result = remote.await_image(session)
    return Outcome(result.image or "", result)


def build(session: Session) -> Outcome:
    """Build the archive with an engine at hand: prints the image reference."""
    with session.writing():
        made = local.make_image(session)
    return Outcome(made.image, made)


def verify(session: Session, *, image: str | None) -> Outcome:
    """Hold an image against the contract, in a real container: prints its reference."""
    with session.writing():
        found = local.verify_image(session, image)
    session.console.show_findings(found.findings)
    return Outcome(found.image, found, 0 if found.ok else BuildFailed.exit_code)


def manifest(session: Session, *, image: str | None) -> Outcome:
    """Render a Kubernetes Deployment and Service for the image: prints them."""
    with session.writing():
        text = local.make_manifest(session, image).rstrip()
    return Outcome(text, {"manifest": text})


def logs(session: Session, *, build_id: str | None) -> Outcome:
    """Show the log of a build, where the Runtime API has it."""
    lines = remote.read_logs(session, build_id)
    return Outcome("\n".join(lines), {"lines": lines})


def clean(session: Session) -> Outcome:
    """Remove what was written to the output directory, and nothing else."""
    session.check_output()
    if not session.directory.exists():  # then its parent is not made either, for the lock
        return Outcome("", {"removed": []})
    with session.locked():
        removed = upkeep.clear_output(session)
    return Outcome("\n".join(removed), {"removed": removed})


def doctor(session: Session) -> Outcome:
    """Look whether everything is in place: git, source, settings, Runtime API, disk."""
    findings = upkeep.examine(session)
    session.console.show_findings(findings)
    failed = [finding for finding in findings if not finding.ok]
    text = f"{len(failed)} of {len(findings)} findings are wrong" if failed else "all is in place"
    code = max((finding.exit_code for finding in failed), default=0)
    return Outcome(text, {"findings": [asdict(finding) for finding in findings]}, code)


def make_collection(tasks_file: str | None = None, **defaults: str) -> Collection:
    """Return the tasks for a project.

    Args:
        tasks_file: The project's own `tasks.py` (`__file__`): its folder is where `.env` lies and relative paths
            start. Without it, that is the checkout around the working directory.
        defaults: This project's own defaults for settings, by variable name.
    """
    collection = Collection(
        make_task(version, *_NAMING, *_SELECTING),
        make_task(dockerfile, *_RENDERING),
        make_task(context, *_SELECTING, *_PACKING, options=(_NO_CACHE, _FILES, _EXPLAIN)),
        make_task(upload, *_SENDING),
        make_task(wait, "runtime_api_url", *_WAITING, options=(_BUILD_ID,)),
        make_task(all_, "clean_output", "skip_existing", *_ALL, options=(_NO_WAIT,), name="all"),
        make_task(build, "image_name", "target_image", *_ENGINE, "push", "build_network"),
        make_task(verify, "target", *_ENGINE, *_SERVER, options=(_IMAGE,)),
        make_task(manifest, "target", *_MANIFEST, options=(_IMAGE,)),
        make_task(logs, "runtime_api_url", options=(_BUILD_ID,)),
        make_task(clean, "force"),
        make_task(doctor, *_ALL),
    )
    own: dict[str, Any] = {"defaults": defaults}
    if tasks_file is not None:
        own["root"] = str(Path(tasks_file).resolve().parent)
    collection.configure({CONFIG_KEY: own})
    return collection


def _explain(session: Session, path: str) -> Outcome:
    inside, verdict = packing.explain_path(session, path)
    where = f" ({verdict.source}, line {verdict.line})" if verdict.source else ""
    text = f"{'packed' if verdict.packed else 'left out'}: {inside}: {verdict.reason}{where}"
    return Outcome(text, {"path": inside, **verdict._asdict()})


def _list_files(session: Session) -> Outcome:
    sizes = packing.list_packed(session)
    session.console.report(f"{len(sizes)} files, {format_size(sum(size for size, _ in sizes))}")
    text = "\n".join(f"{size:>12}  {escape_controls(path)}" for size, path in sizes)
    return Outcome(text, {"files": [{"path": path, "size_bytes": size} for size, path in sizes]})
