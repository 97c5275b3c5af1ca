"""Terminal sequences in logs (ECMA-48): colours, cursor movements, window titles."""

from __future__ import annotations

import re

from buildkit.display import escape_controls

# `codes` are those of a colour or a style. Every part is bounded, so that no text takes long.
SEQUENCE = re.compile(
    r"\x1b\[(?P<codes>[0-9;]{0,64})m"
    r"|\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|\x1b[\]P_^][^\x07\x1b\n]{0,2048}(?:\x07|\x1b\\)"
    r"|\x1b[@-Z\\^_]"
)


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
