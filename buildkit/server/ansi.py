"""Log lines as HTML: colours become classes through an allowlist, and everything else is escaped or left out."""

from __future__ import annotations

from html import escape

from buildkit.display import SEQUENCE, escape_controls, strip_sequences

MAX_LINE = 4000
_STYLES = {1: "bold", 2: "dim", 3: "italic", 4: "underline"}
_STYLE_ENDS = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",)}
_COLOURS = {
    **{30 + number: f"fg-{number}" for number in range(8)},
    **{90 + number: f"fg-{number + 8}" for number in range(8)},
    **{40 + number: f"bg-{number}" for number in range(8)},
    **{100 + number: f"bg-{number + 8}" for number in range(8)},
}
_COLOUR_ENDS = {39: "fg-", 49: "bg-"}
# `38;5;N` and `38;2;R;G;B`: how many codes follow the second one.
_EXTENDED, _EXTENDED_LENGTHS = {38, 48, 58}, {5: 1, 2: 3}


def render_line(line: str) -> str:
    r"""Return a line of a log as HTML without live markup.

    >>> render_line("\x1b[31m<b>\x1b[0m")
    '<span class="ansi-fg-1">&lt;b&gt;</span>'
    """
    line = line.rstrip("\r\n")
    if len(line) > MAX_LINE:
        line = f"{line[:MAX_LINE]} … (the raw log has {len(line) - MAX_LINE} more characters)"
    parts: list[str] = []
    active: list[str] = []
    start = 0
    for match in SEQUENCE.finditer(line):
        parts.append(_render_text(line[start : match.start()], active))
        if match["codes"] is not None:
            active = _apply(match["codes"], active)
        start = match.end()
    parts.append(_render_text(line[start:], active))
    return "".join(parts)


def strip_ansi(line: str) -> str:
    """Return a line without its colours and with its control characters escaped, for searching and for summaries."""
    return escape_controls(strip_sequences(line.rstrip("\r\n")), keep="\t")


def _render_text(text: str, active: list[str]) -> str:
    safe = escape(escape_controls(text, keep="\t"))
    if not safe or not active:
        return safe
    return f'<span class="{" ".join(f"ansi-{name}" for name in active)}">{safe}</span>'


def _apply(codes: str, active: list[str]) -> list[str]:
    """Return which classes hold after a sequence; codes that are not known change nothing."""
    numbers = [int(code[:4] or 0) for code in codes.split(";")]
    while numbers:
        number = numbers.pop(0)
        if number == 0:
            active = []
        elif number in _EXTENDED:
            length = _EXTENDED_LENGTHS.get(numbers[0], 0) if numbers else 0
            del numbers[: 1 + length]
        elif number in _STYLES:
            active = [name for name in active if name != _STYLES[number]] + [_STYLES[number]]
        elif number in _COLOURS:
            name = _COLOURS[number]
            active = [other for other in active if other[:3] != name[:3]] + [name]
        elif number in _STYLE_ENDS:
            active = [name for name in active if name not in _STYLE_ENDS[number]]
        elif number in _COLOUR_ENDS:
            active = [name for name in active if not name.startswith(_COLOUR_ENDS[number])]
    return active
