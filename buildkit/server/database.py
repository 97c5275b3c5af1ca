"""The server's SQLite file: opened for its owner alone, used by any thread, one transaction at a time."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUSY_TIMEOUT_S = 10.0
_VERSION = 1
_SCHEMA = (
    """
    CREATE TABLE builds (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        target_image TEXT NOT NULL,
        tags TEXT NOT NULL,
        base_image TEXT NOT NULL,
        owner TEXT NOT NULL,
        context_sha256 TEXT NOT NULL,
        source_sha256 TEXT,
        idempotency_key TEXT,
        created_at REAL NOT NULL,
        queued_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        attempts INTEGER NOT NULL DEFAULT 0,
        image TEXT,
        error TEXT,
        step TEXT NOT NULL DEFAULT '',
        builder TEXT NOT NULL DEFAULT '',
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        retry_of TEXT
    ) STRICT
    """,
    "CREATE UNIQUE INDEX builds_by_key ON builds (owner, idempotency_key) WHERE idempotency_key IS NOT NULL",
    "CREATE INDEX builds_by_status ON builds (status, number)",
    f"PRAGMA user_version = {_VERSION}",
)


class Database:
    """One connection, guarded by a lock.

    Every method raises LocalError if the file cannot be read or written; nothing has changed then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._reporting_errors():
            # SQLite gives the files that it puts beside this one the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
        self._create_schema()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def select(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        with self._lock, self._reporting_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for one transaction. It is on disk once the block has succeeded, or else undone."""
        with self._lock, self._reporting_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _create_schema(self) -> None:
        with self.changing() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise LocalError(
                    f"{self._path} was written by a newer version", "update runtime-build, then start it again"
                )
            for statement in _SCHEMA if version == 0 else ():
                connection.execute(statement)

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LocalError(
                f"cannot use {self._path}: {error}", f"free some disk space, or make {self._path.parent} writable"
            ) from error
