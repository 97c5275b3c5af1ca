"""The command `runtime-build`: the same tasks as invoke's, without a `tasks.py`."""

from __future__ import annotations

import gc
import signal


def main() -> None:
    """Run what was typed."""
    # Until a task listens to signals itself, Ctrl-C ends us at once; Python would show a traceback of its imports.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # what importing makes is no garbage, and to look for it takes a good part of a short run
    from buildkit.program import run

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
