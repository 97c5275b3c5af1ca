"""The builds that the server has accepted: queued in order, claimed by one builder at a time, ended once."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import fields
from typing import TYPE_CHECKING

from buildkit.errors import NotStarted
from buildkit.server.database import Database
from buildkit.server.records import Build

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from buildkit.server.records import NewBuild, Query

QUEUED, RUNNING = "QUEUED", "RUNNING"
FAILURE, INTERNAL_ERROR, TIMEOUT, CANCELLED, EXPIRED = "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"
# An interrupted build is queued again twice; one that brings its engine down each time must come to an end.
MAX_ATTEMPTS = 3
_INTERRUPTED = f"interrupted {MAX_ATTEMPTS} times: the engine or the server went away each time"
_FIELDS = [field.name for field in fields(Build)]


class QueueFull(NotStarted):
    """The queue has no room for another build."""


class Store:
    """The table of builds. Any thread may use it, and every change is on disk before its call returns.

    Every method raises LocalError if the database cannot be read or written; nothing has changed then.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def add(self, new: NewBuild, queue_limit: int) -> Build:
        """Return the queued build, or the one that its owner has started with the same idempotency key.

        Raises:
            QueueFull: That many builds are waiting already; nothing was added.
        """
        find = "SELECT * FROM builds WHERE owner = ? AND idempotency_key = ?"
        values = {**vars(new), "tags": json.dumps(new.tags), "id": secrets.token_hex(8), "now": time.time()}
        with self._database.changing() as connection:
            if known := connection.execute(find, (new.owner, new.idempotency_key)).fetchone():
                return _read_build(known)
            waiting = connection.execute("SELECT count(*) FROM builds WHERE status = 'QUEUED'").fetchone()[0]
            if waiting >= queue_limit:
                raise QueueFull(f"{waiting} builds are waiting and the queue takes no more", "try again later")
            row = connection.execute(
                "INSERT INTO builds (id, status, target_image, tags, base_image, owner, context_sha256, source_sha256,"
                " idempotency_key, retry_of, created_at, queued_at) VALUES (:id, 'QUEUED', :target_image, :tags,"
                " :base_image, :owner, :context_sha256, :source_sha256, :idempotency_key, :retry_of, :now, :now)"
                " RETURNING *",
                values,
            ).fetchone()
            return _read_build(row)

    def get(self, build_id: str) -> Build | None:
        """Return the build with that ID, or None."""
        return self._find_one("SELECT * FROM builds WHERE id = ?", build_id)

    def list(self, query: Query) -> Sequence[Build]:
        """Return the builds that match, the newest first."""
        rows = self._database.select(
            "SELECT * FROM builds WHERE (?1 IS NULL OR status = ?1)"
            " AND instr(lower(id || ' ' || target_image || ' ' || tags || ' ' || owner), lower(?2))"
            " AND (?3 IS NULL OR number < (SELECT number FROM builds WHERE id = ?3)) ORDER BY number DESC LIMIT ?4",
            *(query.status, query.text, query.before, query.limit),
        )
        return [_read_build(row) for row in rows]

    def find_image(self, image: str) -> Build | None:
        """Return the last successful build that gave an image this name."""
        return self._find_one(
            "SELECT * FROM builds WHERE status = 'SUCCESS' AND"
            " (?1 IN (image, target_image) OR ?1 IN (SELECT value FROM json_each(tags))) ORDER BY number DESC LIMIT 1",
            image,
        )

    def claim(self, builder: str, accepts: Callable[[Build], bool]) -> Build | None:
        """Return the oldest queued build that the builder accepts, now running, or None."""
        with self._database.changing() as connection:
            waiting = connection.execute("SELECT * FROM builds WHERE status = 'QUEUED' ORDER BY number")
            build = next((build for build in map(_read_build, waiting) if accepts(build)), None)
            if build is None:
                return None
            row = connection.execute(
                "UPDATE builds SET status = 'RUNNING', builder = ?, started_at = ?, attempts = attempts + 1"
                " WHERE id = ? RETURNING *",
                (builder, time.time(), build.id),
            ).fetchone()
            return _read_build(row)

    def note_step(self, build: Build, step: str) -> None:
        """Record what a claimed build is doing."""
        self._update(build, "step = ?", step)

    def finish(self, build: Build, status: str, image: str | None = None, error: str | None = None) -> bool:
        """Record the end of a claimed build; False, without a change, if it no longer belongs to that attempt."""
        values = (status, image, error, time.time())
        return self._update(build, "status = ?, image = ?, error = ?, finished_at = ?, step = ''", *values)

    def requeue(self, build: Build) -> bool:
        """Queue a claimed build whose engine was lost; False if it has ended instead or belongs to another attempt.

        It ends if its cancellation was requested, or after `MAX_ATTEMPTS`.
        """
        with self._database.changing() as connection:
            return _requeue(connection, build) == 1

    def release(self, build: Build) -> bool:
        """Queue a claimed build because the server stops; unlike an interruption, this does not use up an attempt."""
        changes = "status = 'QUEUED', attempts = attempts - 1, queued_at = ?, started_at = NULL, step = ''"
        return self._update(build, changes, time.time())

    def request_cancel(self, build_id: str) -> Build | None:
        """Return the build: cancelled if it was queued, to be cancelled if it is running, unchanged if it has ended."""
        with self._database.changing() as connection:
            connection.execute(
                "UPDATE builds SET status = 'CANCELLED', cancel_requested = 1, finished_at = ?"
                " WHERE id = ? AND status = 'QUEUED'",
                (time.time(), build_id),
            )
            connection.execute(
                "UPDATE builds SET cancel_requested = 1 WHERE id = ? AND status = 'RUNNING'", (build_id,)
            )
        return self.get(build_id)

    def recover(self) -> Sequence[Build]:
        """Queue the builds that were running when the server was killed, and return them as they are now."""
        with self._database.changing() as connection:
            running = [row["id"] for row in connection.execute("SELECT id FROM builds WHERE status = 'RUNNING'")]
            _requeue(connection)
        return [build for build_id in running if (build := self.get(build_id))]

    def expire(self, before: float) -> int:
        """End the builds that have been waiting since before that time, and return how many."""
        with self._database.changing() as connection:
            return connection.execute(
                "UPDATE builds SET status = 'EXPIRED', error = 'waited too long in the queue', finished_at = ?"
                " WHERE status = 'QUEUED' AND queued_at < ?",
                (time.time(), before),
            ).rowcount

    def queue_position(self, build: Build) -> int | None:
        """Return the build's place in the queue, from 1, or None if it is not waiting."""
        [row] = self._database.select(
            "SELECT count(*) FROM builds AS other JOIN builds AS own ON other.number <= own.number"
            " WHERE own.id = ? AND own.status = 'QUEUED' AND other.status = 'QUEUED'",
            build.id,
        )
        return row[0] or None

    def counts(self) -> dict[str, int]:
        """Return how many builds have each status."""
        rows = self._database.select("SELECT status, count(*) FROM builds GROUP BY status")
        return {row[0]: row[1] for row in rows}

    def list_digests(self, *, of_ended: bool = True) -> set[str]:
        """Return the digests of the contexts and sources of all builds, or only of those that have not ended."""
        rows = self._database.select(
            "SELECT context_sha256, source_sha256 FROM builds WHERE ? OR status IN ('QUEUED', 'RUNNING')", of_ended
        )
        return {digest for row in rows for digest in row if digest}

    def forget(self, before: float) -> Sequence[str]:
        """Delete the builds that ended before that time, and return their IDs."""
        with self._database.changing() as connection:
            rows = connection.execute("DELETE FROM builds WHERE finished_at < ? RETURNING id", (before,)).fetchall()
        return [row["id"] for row in rows]

    def _find_one(self, query: str, *values: object) -> Build | None:
        return next(map(_read_build, self._database.select(query, *values)), None)

    def _update(self, build: Build, changes: str, *values: object) -> bool:
        """Change a build if it still belongs to the attempt that claimed it, and return whether it does."""
        statement = f"UPDATE builds SET {changes} WHERE id = ? AND status = 'RUNNING' AND attempts = ?"  # noqa: S608 - the changes are constants above
        with self._database.changing() as connection:
            return connection.execute(statement, (*values, build.id, build.attempts)).rowcount == 1


def _read_build(row: sqlite3.Row) -> Build:
    values = {name: row[name] for name in _FIELDS}
    values |= {"tags": tuple(json.loads(row["tags"])), "cancel_requested": bool(row["cancel_requested"])}
    return Build(**values)


def _requeue(connection: sqlite3.Connection, build: Build | None = None) -> int:
    """Queue or end one interrupted build, or all that are running, and return how many were queued."""
    values = {"id": build and build.id, "attempt": build and build.attempts, "now": time.time()}
    connection.execute(
        "UPDATE builds SET status = CASE WHEN cancel_requested THEN 'CANCELLED' ELSE 'INTERNAL_ERROR' END,"
        " error = CASE WHEN cancel_requested THEN NULL ELSE :error END, finished_at = :now, step = ''"
        " WHERE status = 'RUNNING' AND (:id IS NULL OR (id = :id AND attempts = :attempt))"
        " AND (cancel_requested OR attempts >= :most)",
        {**values, "error": _INTERRUPTED, "most": MAX_ATTEMPTS},
    )
    return connection.execute(
        "UPDATE builds SET status = 'QUEUED', queued_at = :now, started_at = NULL, step = ''"
        " WHERE status = 'RUNNING' AND (:id IS NULL OR (id = :id AND attempts = :attempt))",
        values,
    ).rowcount
