"""The command `runtime-build`: the same tasks as invoke's, without a `tasks.py`."""

from __future__ import annotations

import gc

from buildkit.signals import end_at_once_on_interrupt


def main() -> None:
    """Run the command line."""
    end_at_once_on_interrupt()
    gc.disable()  # importing creates no garbage, and looking for it takes a good part of a short run
    from buildkit.cli import start

    gc.freeze()
    gc.enable()
    start()


if __name__ == "__main__":
    main()
