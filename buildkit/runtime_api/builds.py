"""The builds of a server, for servers that list them and can cancel them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from urllib.parse import quote

from buildkit.errors import run
from buildkit.runtime_api import policy, protocol
from buildkit.runtime_api.fields import read_builds, read_status
from buildkit.runtime_api.http import Request
from buildkit.runtime_api.response import InvalidResponse
from buildkit.runtime_api.retry import RequestFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.protocol import ListedBuild
    from buildkit.runtime_api.response import Response


def list_builds(api: RuntimeApi, parameters: Mapping[str, str]) -> list[ListedBuild]:
    """Return the builds of the server, the newest first.

    Args:
        parameters: `status`, `image`, `limit`: which builds are wanted, as the server understands it.

    Raises:
        RequestFailed: The server does not list them.
    """
    request = api.make_get(protocol.BUILDS, parameters)
    response = api.repeat(lambda: _require(api, request))
    if response.status in policy.ABSENT:
        raise RequestFailed(
            f"this Runtime API does not list builds ({request} returned {response.title})",
            f"ask for one build with {run('wait --build-id ID')}",
            status=response.status,
        )
    try:
        return read_builds(api.parse(request, response), api.clean)
    except InvalidResponse as invalid:
        raise RequestFailed(f"{request} returned {response.title}, but {invalid}", policy.SERVER_FIX) from invalid


def cancel_build(api: RuntimeApi, build_id: str, *, within_s: float = math.inf) -> str | None:
    """Cancel a build and return its status, or None if the server does not say; it may still be running.

    Args:
        within_s: Seconds for the whole exchange, if there is time for only one try.

    Raises:
        RequestFailed: The server does not know the build, cannot cancel builds, or does not respond.
    """
    url = f"{api.url}{protocol.BUILDS}/{quote(build_id, safe='')}/cancel"
    request = Request(url, api.network.read_s, total_s=within_s, method="POST")
    # Cancelling twice is the same as cancelling once, so a lost response allows another try.
    is_brief = math.isfinite(within_s)
    response = _require(api, request) if is_brief else api.repeat(lambda: _require(api, request))
    if response.status not in policy.ABSENT:
        return read_status(api.parse(request, response), api.clean).status
    if protocol.CANCEL not in api.features():
        raise RequestFailed(
            f"this Runtime API cannot cancel builds ({request} returned {response.title})",
            f"{run('wait', '--build-id', build_id)} waits for its end",
            status=response.status,
        )
    raise RequestFailed(
        f"the server does not know the build {build_id}{api.quote(response)}",
        f"{run('builds')} lists its builds",
        status=response.status,
    )


def _require(api: RuntimeApi, request: Request) -> Response:
    """Return a response that was accepted, or one which says that the server does not provide the call."""
    response = api.fetch(request)
    if response.status not in policy.ACCEPTED | policy.ABSENT:
        raise api.classify(request, response)
    return response
