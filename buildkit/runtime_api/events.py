"""The log of a build as server-sent events, in bounded memory.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from buildkit.runtime_api import policy, protocol
from buildkit.runtime_api.exchange import read_body
from buildkit.runtime_api.http import Request
from buildkit.runtime_api.response import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from buildkit.runtime_api.client import RuntimeApi

_MEDIA_TYPE = "text/event-stream"
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


@contextmanager
def open_events(api: RuntimeApi, build_id: str, last_id: str | None) -> Iterator[Iterator[Event]]:
    """Give the events of a build's log as it grows, without the key, until the server ends the stream.

    Args:
        last_id: Of the last event that was received, so that the server goes on after it.

    Raises:
        RequestFailed: The server refuses, or the connection fails.
        InvalidResponse: It is not a stream of events.
    """
    headers = {"Accept": _MEDIA_TYPE, **({"Last-Event-ID": last_id} if last_id else {})}
    url = f"{api.url}{protocol.BUILD_LOGS}"
    request = Request(url, api.network.idle_s, {"build_id": build_id}, headers=headers, is_stream=True)
    with api.open(request) as (head, pieces):
        if head.status not in policy.ACCEPTED:
            raise api.classify(request, read_body(head, pieces))
        if not head.headers.get("Content-Type", "").startswith(_MEDIA_TYPE):
            raise InvalidResponse(f"{request} did not return a stream of events")
        yield (event._replace(lines=[*map(api.scrub, event.lines)]) for event in read_events(pieces))


def read_events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of a body as they become complete; one that is cut is left out."""
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
