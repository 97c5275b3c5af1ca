"""Each step with its state: load what it is made from, run it, save what it made. The only place that does both."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit.display import escape_controls, format_size
from buildkit.errors import LocalError, OutcomeUnknown, SettingError
from buildkit.models import BuildContext, BuildResult, Dockerfile, Submission, Version
from buildkit.output import STAT_CACHE, clean_output_dir, remove_output_dir
from buildkit.state import digest_file, digest_files, find_state, load_state, save_state

if TYPE_CHECKING:
    from buildkit.api import RuntimeApi
    from buildkit.context import PackedContext
    from buildkit.models import Finding
    from buildkit.session import Session

_DOCKERFILE = "Dockerfile"
_INSTRUCTIONS = "BUILD_INSTRUCTIONS.md"
_NO_URL = ("RUNTIME_API_URL is not set", "set RUNTIME_API_URL and RUNTIME_API_KEY in .env or the environment")


def make_version(session: Session) -> Version:
    """Return which source this is, saved."""
    from buildkit.version import describe_version, identify_source  # noqa: PLC0415

    settings, console = session.settings, session.console
    commit = identify_source(
        session.source,
        git_sha=settings.git_sha,
        github_sha=session.environment.get("GITHUB_SHA", ""),
        warn=console.warn,
    )
    version = describe_version(
        commit,
        session.selection.select().changed,
        tags=settings.custom_tags,
        output_name=settings.output_name,
        commit_time=settings.source_date_epoch,
        allow_dirty=settings.allow_dirty,
        warn=console.warn,
    )
    save_state(session.directory, version)
    console.publish(short_sha=version.short_sha, tags=",".join(version.tags))
    return version


def make_dockerfile(session: Session) -> Dockerfile:
    """Return what was rendered; `Dockerfile` and `BUILD_INSTRUCTIONS.md` are written beside its state."""
    from buildkit.atomic import write_file  # noqa: PLC0415
    from buildkit.dockerfile import DockerfileSettings, render_dockerfile  # noqa: PLC0415
    from buildkit.project import find_spec  # noqa: PLC0415

    settings, directory = session.settings, session.directory
    version = load_state(directory, Version)
    spec = find_spec(session.source, session.project.roots, settings.pyinstaller_spec)
    rendered = render_dockerfile(
        DockerfileSettings(
            target=settings.target,
            base_image=settings.base_image,
            build_args=settings.build_args,
            extra_packages=settings.extra_packages,
            features=settings.features,
            server_module=settings.server_module,
            server_name=settings.server_name,
            server_port=settings.server_port,
        ),
        replace(session.project, spec=spec),
        version,
        git_ref=settings.git_ref or version.sha or "unknown",
        template_dir=session.root / settings.template_dir if settings.template_dir else None,
    )
    write_file(directory / _DOCKERFILE, rendered.text.encode("utf-8"))
    write_file(directory / _INSTRUCTIONS, rendered.instructions.encode("utf-8"))
    dockerfile = Dockerfile(
        target=settings.target,
        base_image=settings.base_image,
        dockerfile_sha256=rendered.dockerfile_sha256,
        build_args=dict(settings.build_args),
        made_from=digest_files(directory, "version.json"),
    )
    save_state(directory, dockerfile)
    return dockerfile


def make_context(session: Session, *, use_cache: bool = True) -> BuildContext:
    """Return the packed build context, saved; its files are not read again where nothing changed."""
    from buildkit.compressor import find_compressor  # noqa: PLC0415
    from buildkit.context import name_largest, pack_context  # noqa: PLC0415

    settings, console, directory = session.settings, session.console, session.directory
    version = load_state(directory, Version)
    load_state(directory, Dockerfile)
    _refuse_other_source(session, version)
    previous = _find_packed(directory)
    key = settings.runtime_api_key
    with console.progress("packing") as progress:
        packed = pack_context(
            session.source,
            session.selection.select,
            {name: (directory / name).read_bytes() for name in (_DOCKERFILE, _INSTRUCTIONS)},
            directory / version.archive,
            mtime=version.commit_time,
            compressor=find_compressor(settings.compression),
            secret=key.reveal() if key else "",
            max_bytes=settings.max_context_bytes,
            previous=previous if use_cache else None,
            progress=lambda done: progress(done, 0),
            warn=console.warn,
        )
    made_from = digest_files(directory, "version.json", "dockerfile.json", _DOCKERFILE, _INSTRUCTIONS)
    context = replace(packed.context, made_from=made_from)
    save_state(directory, context)
    _keep_proof(directory, packed)
    if previous and previous.context.archive != context.archive:
        (directory / previous.context.archive).unlink(missing_ok=True)
    _describe_context(session, context, unchanged=packed is previous)
    if context.context_bytes > settings.warn_context_bytes:
        console.warn(name_largest(session.source, session.selection.select().files))
    console.publish(archive=session.show_path(directory / context.archive))
    return context


def make_submission(session: Session) -> Submission:
    """Return the build that was asked for, saved before and after the request."""
    from buildkit.upload import submit_build  # noqa: PLC0415

    settings, console, directory = session.settings, session.console, session.directory
    _require_api(session)
    version = load_state(directory, Version)
    dockerfile = load_state(directory, Dockerfile)
    context = load_state(directory, BuildContext)
    archive = directory / context.archive
    if digest_file(archive) != context.archive_sha256:
        raise LocalError(f"{directory.name}/{context.archive} is missing or has changed", "run `invoke context` again")
    made_from = digest_files(directory, "context.json")
    previous = None if settings.force else find_submission(directory)
    path = directory / "upload.json"
    with _open_api(session) as api, console.progress("uploading") as progress:
        submission = submit_build(
            api,
            archive,
            context,
            version,
            target=dockerfile.target,
            image_name=settings.image_name,
            target_image=settings.target_image,
            upload_format=settings.upload_format,
            previous=previous if previous and not _is_over(directory, previous) else None,
            force=settings.force,
            save=lambda submission: save_state(directory, replace(submission, made_from=made_from)),
            discard=lambda: path.unlink(missing_ok=True),
            progress=progress,
            report=console.report,
            warn=console.warn,
        )
    console.publish(build_id=submission.build_id)
    return load_state(directory, Submission)


def await_image(session: Session, build_id: str | None = None) -> BuildResult:
    """Return how the build ended, saved."""
    from buildkit.wait import BuildEndedBadly, poll_build  # noqa: PLC0415

    settings, console, directory = session.settings, session.console, session.directory
    _require_api(session)
    submission = None if build_id else load_submission(directory)
    build_id = build_id or (submission.build_id if submission else None) or ""
    made_from = digest_files(directory, "upload.json") if submission else {}
    session.on_interrupt = f"the build {build_id} goes on; `invoke wait --build-id {build_id}` comes back to it"
    with _open_api(session) as api:
        try:
            result = poll_build(
                api,
                build_id,
                status_url=submission.status_url if submission else None,
                target_image=submission.target_image if submission else None,
                timeout_s=settings.build_timeout,
                poll_interval_s=settings.poll_interval,
                report=console.report,
                warn=console.warn,
            )
        except BuildEndedBadly as failed:
            save_state(directory, replace(failed.result, made_from=made_from))
            _show_log_end(session, api, build_id)
            raise
    result = replace(result, made_from=made_from)
    save_state(directory, result)
    console.publish(image=result.image, build_id=build_id)
    return result


def describe_files(session: Session) -> str:
    """Return a line for each file that is packed: its size in bytes and its path, largest first."""
    from buildkit.context import list_sizes  # noqa: PLC0415

    selected = session.selection.select()
    for warning in selected.warnings:
        session.console.warn(warning)
    sizes = list_sizes(session.source, selected.files)
    session.console.report(f"{len(sizes)} files, {format_size(sum(size for size, _ in sizes))}")
    return "\n".join(f"{size:>12}  {escape_controls(path)}" for size, path in sizes)


def explain_path(session: Session, path: str) -> str:
    """Return which rule packs or refuses `path`, which is below the source or the working directory."""
    typed = Path(os.path.normpath(Path.cwd() / path))
    inside = typed.relative_to(session.source).as_posix() if typed.is_relative_to(session.source) else path
    if not os.path.lexists(session.source / inside):
        inside = path
    verdict = session.selection.explain(os.path.normpath(inside))
    where = f" ({verdict.source}, line {verdict.line})" if verdict.source else ""
    return f"{'packed' if verdict.packed else 'left out'}: {inside}: {verdict.reason}{where}"


def show_logs(session: Session, build_id: str | None) -> str:
    """Return the log of a build, or nothing where the Runtime API has none."""
    from buildkit.logs import read_logs  # noqa: PLC0415

    _require_api(session)
    build_id = build_id or load_submission(session.directory).build_id or ""
    with _open_api(session) as api:
        lines = read_logs(api, build_id)
        if lines is None:
            session.console.report("this Runtime API has no build logs")
            return ""
        return "\n".join(lines)


def examine(session: Session) -> list[Finding]:
    """Return what `doctor` found."""
    from buildkit import doctor  # noqa: PLC0415

    settings = session.settings
    findings = [doctor.check_git(session.source), doctor.check_source(session.source)]
    findings += doctor.list_settings(settings, session.loaded.origins)
    findings.append(doctor.check_disk(session.directory))
    if settings.runtime_api_url is None:
        findings.append(doctor.NO_API)
        return findings
    with _open_api(session) as api:
        return findings + doctor.check_api(api)


def find_submission(directory: Path) -> Submission | None:
    """Return the submission on record, whatever became of the context it was made from; None where there is none.

    Raises:
        LocalError: The record is damaged: a build may be going on.
    """
    if not (directory / "upload.json").exists():
        return None
    try:
        return load_state(directory, Submission, trace=False)
    except LocalError as error:
        raise LocalError(
            error.message, "look on the server for a build, then `invoke upload --force` to send it again"
        ) from error


def load_submission(directory: Path) -> Submission:
    """Return the build that `upload` asked for.

    Raises:
        OutcomeUnknown: The request was sent, and no answer came.
        LocalError: There is none, or the record is damaged.
    """
    submission = find_submission(directory) or load_state(directory, Submission)
    if submission.build_id is None:
        raise OutcomeUnknown(
            f"an upload to {submission.runtime_api_url} was begun, but no build ID came back",
            "look on the server; then `invoke wait --build-id ID`, or `invoke upload --force` to send it again",
        )
    return submission


def clear_output(session: Session, *, whole: bool) -> None:
    """Remove what earlier runs wrote; a build whose end is not known yet stays on record.

    Args:
        whole: Remove that record too, the marker and the folder.

    Raises:
        OutcomeUnknown: A build may have been started, and nobody knows its ID.
    """
    directory = session.directory
    if not directory.is_dir():
        return
    submission = None if session.settings.force else find_submission(directory)
    if submission and submission.build_id is None:
        load_submission(directory)
    open_build = submission is not None and not _is_over(directory, submission)
    archives = frozenset(_recorded_archives(directory))
    keep = frozenset({"upload.json"}) if open_build and not whole else frozenset[str]()
    clean_output_dir(directory, archives, keep)
    if whole:
        remove_output_dir(directory)


def _show_log_end(session: Session, api: RuntimeApi, build_id: str) -> None:
    """Show the end of a failed build's log; a log that cannot be read changes nothing."""
    from buildkit.logs import read_tail  # noqa: PLC0415

    for line in read_tail(api, build_id, warn=session.console.warn):
        session.console.report(line)


def _require_api(session: Session) -> None:
    if session.settings.runtime_api_url is None:
        raise SettingError(*_NO_URL)


def _open_api(session: Session) -> RuntimeApi:
    from buildkit.api import RuntimeApi  # noqa: PLC0415

    settings = session.settings
    if settings.runtime_api_url is None or settings.runtime_api_key is None:
        raise SettingError(*_NO_URL)
    return RuntimeApi(
        settings.runtime_api_url,
        settings.runtime_api_key,
        allowed_hosts=frozenset(settings.allowed_hosts),
        stall_timeout_s=settings.stall_timeout,
    )


def _refuse_other_source(session: Session, version: Version) -> None:
    """Stop where the checkout is no longer what `version.json` says: an image must not carry another's name."""
    from buildkit.version import identify_source  # noqa: PLC0415

    settings = session.settings
    commit = identify_source(
        session.source,
        git_sha=settings.git_sha,
        github_sha=session.environment.get("GITHUB_SHA", ""),
        warn=lambda _: None,
    )
    sha = commit.sha if commit else None
    if sha != version.sha:
        raise LocalError(
            f"{session.directory.name}/version.json was made from commit {version.sha}, but the source is at {sha}",
            "run `invoke version` and `invoke dockerfile` again",
        )


def _find_packed(directory: Path) -> PackedContext | None:
    """Return the last build context and its proof; a damaged record only means that the files are read again."""
    from buildkit.context import PackedContext  # noqa: PLC0415

    try:
        context = find_state(directory, BuildContext)
        record = json.loads((directory / STAT_CACHE).read_bytes()) if context else {}
    except (LocalError, OSError, ValueError):
        return None
    if context is None or not isinstance(record, dict) or record.get("context") != digest_file(directory / "context.json"):
        return None
    proof = record.get("proof")
    return PackedContext(context, proof if isinstance(proof, str) else None)


def _keep_proof(directory: Path, packed: PackedContext) -> None:
    from buildkit.atomic import write_file  # noqa: PLC0415

    record = {"context": digest_file(directory / "context.json"), "proof": packed.proof}
    write_file(directory / STAT_CACHE, json.dumps(record).encode("ascii"))


def _describe_context(session: Session, context: BuildContext, *, unchanged: bool) -> None:
    verb = "nothing changed:" if unchanged else "packed"
    session.console.report(
        f"{verb} {context.files} files, {format_size(context.context_bytes)},"
        f" as {context.archive} ({format_size(context.archive_bytes)})"
    )


def _is_over(directory: Path, submission: Submission) -> bool:
    """Return whether it is known how the submitted build ended."""
    try:
        result = find_state(directory, BuildResult)
    except LocalError:
        return False
    return result is not None and result.build_id == submission.build_id


def _recorded_archives(directory: Path) -> list[str]:
    names = []
    for kind in (Version, BuildContext):
        try:
            record = json.loads((directory / f"{kind.step}.json").read_bytes())
            names.append(record["archive"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
    return [name for name in names if isinstance(name, str) and "/" not in name]
