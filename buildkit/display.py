"""Text from files, logs and servers, made safe to show on a terminal."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Cc: ESC, CR, BEL, C1 controls. Cf: bidirectional overrides, zero-width. Cs: names that are not UTF-8.
# Zl, Zp: line breaks that only some programs see.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_UNDECODED = range(0xDC80, 0xDD00)  # bytes that are not UTF-8, as os.fsdecode keeps them
_KILO = 1000
_TENTHS_MATTER_BELOW_S = 10
# Terminal sequences (ECMA-48): colours, cursor movements, window titles. `codes` are those of a colour or a style.
# Every part is bounded, so that no text takes long.
SEQUENCE = re.compile(
    r"\x1b\[(?P<codes>[0-9;]{0,64})m"
    r"|\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|\x1b[\]P_^][^\x07\x1b\n]{0,2048}(?:\x07|\x1b\\)"
    r"|\x1b[@-Z\\^_]"
)
_MINUTE, _HOUR = 60, 3600


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


def strip_sequences(text: str) -> str:
    r"""Return `text` without terminal sequences; escaped, they would hide the words.

    >>> strip_sequences("\x1b[2K\x1b[32mok\x1b[0m")
    'ok'
    """
    return SEQUENCE.sub("", text) if "\x1b" in text else text


def keep_colours(text: str) -> str:
    r"""Return `text` with colours as its only sequences, and with every other control character written as an escape.

    >>> keep_colours("\x1b[2K\x1b[32mok\x07")
    '\x1b[32mok\\x07'
    """
    parts, start = list[str](), 0
    for match in SEQUENCE.finditer(text) if "\x1b" in text else ():
        parts.append(escape_controls(text[start : match.start()]))
        if match["codes"] is not None:
            parts.append(match[0])
        start = match.end()
    return "".join([*parts, escape_controls(text[start:])])


def format_size(size_bytes: int) -> str:
    """Return a size for people, in powers of 1000: `14 B`, `3.2 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < _KILO:
            return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KILO
    return f"{size:.1f} TB"


def format_duration(seconds: float) -> str:
    """Return a duration for people.

    >>> [format_duration(seconds) for seconds in (0.42, 5, 12.3, 192, 3600)]
    ['0.4 s', '5 s', '12 s', '3 min 12 s', '1 h']
    """
    whole = round(seconds)
    if seconds < _TENTHS_MATTER_BELOW_S:
        return f"{round(seconds, 1):g} s"
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return _join(whole // _MINUTE, "min", whole % _MINUTE, "s")
    return _join(whole // _HOUR, "h", whole % _HOUR // _MINUTE, "min")


def _join(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"


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
    if code in _UNDECODED:
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
