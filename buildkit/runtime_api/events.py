"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), in bounded memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from buildkit.runtime_api.response import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_EVENT_BYTES = 4 * 1024 * 1024
# It is sent back in a header.
_EVENT_ID = re.compile(r"[!-~]{1,256}")


class Event(NamedTuple):
    """One event.

    Attributes:
        event_id: Where to go on after this event; None if the server does not say.
        lines: Of its data.
    """

    name: str
    event_id: str | None
    lines: list[str]


def read_events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of a body as they become complete; one that is cut is left out.

    Raises:
        InvalidResponse: An event is too large.
    """
    lines: list[bytes] = []
    size_bytes, rest = 0, b""
    for piece in pieces:
        *complete, rest = (rest + piece).split(b"\n")
        for line in complete:
            if line.rstrip(b"\r"):
                lines.append(line.rstrip(b"\r"))
                size_bytes += len(line) + 1
            else:
                event = _parse_event(lines)
                lines, size_bytes = [], 0
                if event.name or event.lines:
                    yield event
        if size_bytes + len(rest) > MAX_EVENT_BYTES:
            raise InvalidResponse("an event is larger than 4 MiB")


def _parse_event(lines: Iterable[bytes]) -> Event:
    name, event_id, data = "", None, []
    for line in lines:
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id" and _EVENT_ID.fullmatch(value):
            event_id = value
    return Event(name, event_id, data)
