"""The text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/), for five gauges."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildkit.server.server import Server

_PREFIX = "runtime_build_"


def format_metrics(server: Server) -> str:
    """Return the server's gauges."""
    health = server.describe()
    gauges: dict[str, tuple[str, float]] = {
        "queued_builds": ("Builds that wait.", health["queued"]),
        "running_builds": ("Builds that an engine is building.", health["running"]),
        "builders": ("Engines and builders that are configured.", len(health["builders"])),
        "free_bytes": ("Free space on the disk of the server.", health["free_bytes"]),
    }
    lines: list[str] = []
    for name, (meaning, value) in gauges.items():
        lines += [f"# HELP {_PREFIX}{name} {meaning}", f"# TYPE {_PREFIX}{name} gauge", f"{_PREFIX}{name} {value}"]
    lines += [f"# HELP {_PREFIX}builds Builds that are kept, by status.", f"# TYPE {_PREFIX}builds gauge"]
    lines += [
        f'{_PREFIX}builds{{status="{status}"}} {count}' for status, count in sorted(server.store.counts().items())
    ]
    return "\n".join(lines) + "\n"
