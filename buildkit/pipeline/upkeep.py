"""Keeping house: clearing the output directory without losing a build that is going on, and `doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from buildkit.models import BuildContext, BuildResult, Version
from buildkit.output.directory import clean_output_dir, is_archive_name, remove_output_dir
from buildkit.pipeline.record import UPLOAD_STATE, find_submission, is_over, load_submission
from buildkit.pipeline.remote import open_api

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.models import Finding, Submission
    from buildkit.session import Session


def prepare_output(session: Session) -> None:
    """Make room for a new run; the record of a build whose end is not known stays.

    Raises:
        OutcomeUnknown: A build may have been started, and nobody knows its ID.
    """
    submission = _find_open_submission(session)
    if session.settings.clean_output:
        keep = {UPLOAD_STATE} if submission else set[str]()
        if session.settings.skip_existing:
            keep |= {UPLOAD_STATE, f"{BuildResult.step}.json"}
        _clean(session.directory, keep=frozenset(keep))


def clear_output(session: Session) -> list[str]:
    """Return the names of the files that were removed; the folder goes too where nothing else is in it.

    The record of a build whose end is not known stays, unless FORCE says otherwise.

    Raises:
        OutcomeUnknown: A build may have been started, and nobody knows its ID.
    """
    submission = _find_open_submission(session)
    removed = _clean(session.directory, keep=frozenset({UPLOAD_STATE}) if submission else frozenset())
    if submission:
        kept = f"kept {UPLOAD_STATE}: it is not known how the build {submission.build_id} ended"
        session.console.report(f"{kept}; `invoke wait` tells, `invoke clean --force` removes it all the same")
    remove_output_dir(session.directory)
    return removed


def _find_open_submission(session: Session) -> Submission | None:
    """Return the build that was asked for and whose end is not known."""
    submission = None if session.settings.force else find_submission(session.directory)
    if submission and submission.build_id is None:
        load_submission(session.directory)
    return submission if submission and not is_over(session.directory, submission) else None


def _clean(directory: Path, keep: frozenset[str] = frozenset()) -> list[str]:
    return clean_output_dir(directory, frozenset(_list_recorded_archives(directory)), keep)


def examine(session: Session) -> list[Finding]:
    """Return what `doctor` found."""
    from buildkit.steps import doctor

    settings = session.settings
    findings = [doctor.check_git(session.source), doctor.check_source(session.source)]
    findings += doctor.list_settings(settings, session.loaded.origins)
    findings.append(doctor.check_disk(session.directory))
    if settings.runtime_api_url is None:
        findings.append(doctor.NO_API)
        return findings
    with open_api(session) as api:
        return findings + doctor.check_api(api)


def _list_recorded_archives(directory: Path) -> list[str]:
    names = []
    for kind in (Version, BuildContext):
        try:
            record = json.loads((directory / f"{kind.step}.json").read_bytes())
            names.append(record["archive"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
    return [name for name in names if isinstance(name, str) and is_archive_name(name)]
