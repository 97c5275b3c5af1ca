"""Text from files and servers, made safe to show on a terminal."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Cc: ESC, CR, BEL, C1 controls. Cf: bidirectional overrides, zero-width. Cs: names that are not UTF-8.
# Zl, Zp: line breaks that only some programs see.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Return `text` with every character that a terminal might obey written as an escape.

    Args:
        keep: Characters that stay as they are, such as a newline in a log.

    >>> print(escape_controls("a\x1b[31mb\u202e"))
    a\x1b[31mb\u202e
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_make_escapes(keep))


def format_size(size_bytes: int) -> str:
    """Return a size for people, in powers of 1000: `14 B`, `3.2 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - a kilobyte
            return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def name_first(names: Sequence[str], limit: int = 10) -> str:
    """Return the first few of the names, and how many more there are.

    >>> name_first(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


class _Escapes(dict[int, str]):
    """What stands for each character, determined when the character first occurs."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = _escape(char) if unicodedata.category(char) in _UNSAFE_CATEGORIES else char
        return self[code]


@cache
def _make_escapes(keep: str) -> _Escapes:
    return _Escapes({ord(char): char for char in keep})


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - a byte that is not UTF-8, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
