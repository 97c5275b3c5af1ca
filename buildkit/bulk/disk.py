"""Room on the disk: below a limit no build starts, and the engine's old build cache makes room first."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

from buildkit.bulk.failures import DiskFull
from buildkit.display import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.engines.engine import Engine
    from buildkit.ui import Ui

# Steps of our Dockerfiles, as BuildKit describes them; the cache of anything else is never touched.
_OURS = "/agent-server|openhands|[.]runtime-build|/opt/(uv|init)/|/lock/|curl=..command -v curl|^.base-(minimal|full) "


class DiskGuard:
    """Looks at the disk before each build.

    Args:
        keep_free_bytes: 0 if nothing is to be kept free.
        folder: On the disk that counts if the engine does not say where its own folder is.
    """

    def __init__(self, keep_free_bytes: int, folder: Path, ui: Ui) -> None:
        self._keep_free_bytes = keep_free_bytes
        self._folder = folder
        self._ui = ui
        self._lock = threading.Lock()

    def check(self, engine: Engine) -> None:
        """Return if there is room for a build.

        Raises:
            DiskFull: There is not, even after the engine's build cache has been pruned.
        """
        if not self._keep_free_bytes:
            return
        with self._lock:  # one prunes, and the others see the result
            folder = engine.find_data_folder() or str(self._folder)
            free = shutil.disk_usage(folder).free
            if free >= self._keep_free_bytes:
                return
            self._ui.report(f"{format_size(free)} are free on the disk of {folder}: pruning the build cache")
            is_pruned = engine.prune_cache(_OURS)
            free = shutil.disk_usage(folder).free
            if free < self._keep_free_bytes:
                done = (
                    "although our build cache has been pruned" if is_pruned else "and the engine cannot prune our cache"
                )
                raise DiskFull(
                    f"{format_size(free)} are free on the disk of {folder}, less than"
                    f" {format_size(self._keep_free_bytes)}, {done}",
                    "remove images that are no longer needed, or give a smaller --keep-free; then run the same command"
                    " again: it continues where it stopped",
                )
