"""Client of the Runtime API: responses become models or errors. What is retried, and when, is in `policy`."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from buildkit.display import escape_controls
from buildkit.errors import OutcomeUnknown, SettingError, run
from buildkit.runtime_api import policy, protocol
from buildkit.runtime_api.http import HttpClient, Network, Request, ResponseMissing, read_body
from buildkit.runtime_api.log import split_lines
from buildkit.runtime_api.policy import ACCEPTED
from buildkit.runtime_api.protocol import BuildStatus, Endpoint, Probe, StartedBuild, parse_origin
from buildkit.runtime_api.response import InvalidResponse, extract_detail, parse_object, shorten
from buildkit.runtime_api.retry import Clock, RequestFailed, repeat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.runtime_api.response import Response
    from buildkit.runtime_api.upload import UploadAttempt
    from buildkit.secret import ApiKey

_NETWORK, _CLOCK = Network(), Clock()
_ABSENT = frozenset({404, 405, 501})
_NO_CONTENT = 204
_MIN_TOTAL_S = 0.1
_SERVER_ERROR = 500
_UNKNOWN_BUILD = {"build_id": "runtime-build-doctor"}
_PROBES: tuple[tuple[str, dict[str, str]], ...] = (
    (protocol.BUILD, {}),
    (protocol.BUILD_STATUS, _UNKNOWN_BUILD),
    (protocol.BUILD_LOGS, _UNKNOWN_BUILD),
    (protocol.REGISTRY_PREFIX, {}),
    (protocol.IMAGE_EXISTS, {"image": "runtime-build/doctor:none"}),
)


class RuntimeApi:
    """A Runtime API at one base URL. Nothing stays open between two requests.

    Args:
        url: Base URL, with or without a path and a trailing slash.
        allowed_hosts: Additional hosts, each `host` or `host:port`, that may receive the key.
    """

    def __init__(
        self,
        url: str,
        key: ApiKey,
        *,
        allowed_hosts: frozenset[str] = frozenset(),
        network: Network = _NETWORK,
        clock: Clock = _CLOCK,
    ) -> None:
        self.url = url.rstrip("/")
        self.clock = clock
        self._key = key
        self._allowed_hosts = allowed_hosts
        self._limits = network.limits
        self._http = HttpClient({"X-API-Key": key.reveal(), "User-Agent": "runtime-build"}, network)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: each request closes its own connection."""

    def registry_prefix(self) -> str | None:
        """Return what image names begin with on this server, without a trailing slash, or None.

        Raises:
            RequestFailed: The server does not say, even after retries.
        """
        url = f"{self.url}{protocol.REGISTRY_PREFIX}"
        request = Request(url, self._limits.read_s)
        response = repeat(lambda: self._get(request, also=_ABSENT), self.clock)
        if response.status in _ABSENT:
            return None
        prefix = self._parse(response, url).get("registry_prefix")
        if not isinstance(prefix, str | None):
            raise RequestFailed(
                f"GET {url} returned a registry_prefix that is not text",
                f"set TARGET_IMAGE to the full image reference, then run {run('upload')} again",
            )
        return self._clean(prefix or "").rstrip("/") or None

    def start_build(self, attempt: UploadAttempt) -> StartedBuild:
        """Return the build that the server has started from the upload; `attempt` says what it can have received.

        Raises:
            NotStarted: The server has no build of this upload.
            OutcomeUnknown: It may have one.
            LocalError: The archive cannot be read or has changed, so the server does not have the whole body.
        """
        try:
            return repeat(lambda: self._post(attempt), self.clock)
        except RequestFailed as failure:
            if failure.status is None and attempt.may_have_started:
                raise OutcomeUnknown(
                    f"{failure.message}; an earlier try sent the whole upload, so a build may or may not have started",
                    policy.UNKNOWN_FIX,
                ) from failure
            attempt.may_have_started = False
            raise

    def _post(self, attempt: UploadAttempt) -> StartedBuild:
        attempt.restart()
        request = Request(
            f"{self.url}{protocol.BUILD}",
            self._limits.response_s,
            headers={"Content-Type": attempt.content_type, "Content-Length": str(attempt.total)},
            body=attempt,
        )
        try:
            response = self._http.fetch(request)
        except ResponseMissing as lost:
            raise policy.classify_failed_upload(lost, self.url, self._clean(lost.reason), attempt) from lost
        if response.status not in ACCEPTED:
            raise policy.classify_upload_response(response, self.url, self._quote(response), attempt)
        try:
            fields = parse_object(response)
            build_id = protocol.read_build_id(fields, self._clean)
        except InvalidResponse as invalid:
            raise policy.classify_started(response, self.url, str(invalid)) from invalid
        replica = protocol.read_replica(fields)
        if replica is None or self.may_have_key(replica):
            return StartedBuild(build_id, status_url=replica)
        return StartedBuild(build_id, refused_url=self._clean(replica))

    def build_status(self, build_id: str, status_url: str | None = None, *, within_s: float = math.inf) -> BuildStatus:
        """Return the state of a build, asking once.

        Args:
            status_url: The replica to ask instead of the base URL.
            within_s: Seconds for the whole exchange, if they are fewer than usual.

        Raises:
            RequestFailed: With `retry.is_transient` if it makes sense to ask later.
            SettingError: The replica may not be sent the key.
        """
        base = (status_url or self.url).rstrip("/")
        if not self.may_have_key(base):
            raise SettingError(
                f"the status of the build is at {base}, which is neither RUNTIME_API_URL nor one of ALLOWED_HOSTS",
                f"add its host to ALLOWED_HOSTS if it may be sent the key, then run {run('wait')} again",
            )
        url = f"{base}{protocol.BUILD_STATUS}"
        request = Request(url, self._limits.read_s, {"build_id": build_id}, total_s=max(_MIN_TOTAL_S, within_s))
        response = self._get(request, also=frozenset({policy.TOO_MANY}))
        if response.status in ACCEPTED:
            return protocol.read_status(self._parse(response, url), self._clean)
        # Some servers return 429 for a build that has ended, if its own error mentions a rate limit.
        try:
            status = protocol.read_status(parse_object(response), self._clean)
        except InvalidResponse:
            raise policy.classify_response(response, url, self._quote(response)) from None
        if status.status not in protocol.ENDED:
            raise policy.classify_response(response, url, self._quote(response))
        return status

    @contextmanager
    def build_logs(self, build_id: str, *, within_s: float = math.inf) -> Iterator[Iterator[str] | None]:
        """Give the lines of a build's log as they arrive, unescaped but without the key; None if there is no log.

        Args:
            within_s: Seconds for the whole log; it ends with a note if they are not enough.

        Raises:
            RequestFailed: The server does not return it.
        """
        url = f"{self.url}{protocol.BUILD_LOGS}"
        request = Request(url, self._limits.response_s, {"build_id": build_id}, total_s=within_s)
        try:
            with self._http.open(request) as (head, pieces):
                if head.status in _ABSENT or head.status == _NO_CONTENT:
                    yield None
                    return
                if head.status not in ACCEPTED:
                    raise policy.classify_response(head, url, self._quote(read_body(head, pieces)))
                yield (self._key.scrub(line) for line in split_lines(pieces))
        except ResponseMissing as lost:
            raise policy.classify_failed_request(lost, url, self._clean(lost.reason)) from lost

    def image_exists(self, reference: str) -> bool | None:
        """Return whether the server says that it has the image, or None if it does not say. It may be wrong.

        Raises:
            RequestFailed: It does not respond.
        """
        url = f"{self.url}{protocol.IMAGE_EXISTS}"
        response = self._get(Request(url, self._limits.read_s, {"image": reference}), also=_ABSENT)
        exists = None if response.status in _ABSENT else self._parse(response, url).get("exists")
        return exists if isinstance(exists, bool) else None

    def probe(self) -> Probe:
        """Return which calls the server provides and whether it accepts the key, using GETs that change nothing.

        Raises:
            RequestFailed: It cannot be reached.
        """
        endpoints = tuple(self._probe(path, parameters) for path, parameters in _PROBES)
        statuses = {endpoint.status for endpoint in endpoints}
        return Probe(endpoints, False if statuses & policy.KEY_REFUSED else bool(statuses & ACCEPTED) or None)

    def may_have_key(self, url: str) -> bool:
        """Return whether the key may be sent there: to the base URL's origin, and to hosts that the user allows.

        Never without TLS, unless the base URL has none either.
        """
        own, other = parse_origin(self.url), parse_origin(url)
        if own is None or other is None:
            return False
        scheme, host, port = other
        is_allowed = not self._allowed_hosts.isdisjoint({host, f"{host}:{port}"})
        return own == other or (is_allowed and scheme in ("https", own[0]))

    def _probe(self, path: str, parameters: dict[str, str]) -> Endpoint:
        status = self._fetch(Request(f"{self.url}{path}", self._limits.read_s, parameters)).status
        # 404 may also mean that there is no such build or image, or that only POST is provided there.
        is_missing = status == policy.NOT_FOUND
        is_open = status in policy.KEY_REFUSED or status >= _SERVER_ERROR
        is_open |= is_missing and path != protocol.REGISTRY_PREFIX
        return Endpoint(path, status, None if is_open else not is_missing)

    def _get(self, request: Request, *, also: frozenset[int]) -> Response:
        """Return the response to a GET, with a status of success or one of `also`."""
        response = self._fetch(request)
        if response.status in ACCEPTED or response.status in also:
            return response
        raise policy.classify_response(response, request.url, self._quote(response))

    def _fetch(self, request: Request) -> Response:
        try:
            return self._http.fetch(request)
        except ResponseMissing as lost:
            raise policy.classify_failed_request(lost, request.url, self._clean(lost.reason)) from lost

    def _parse(self, response: Response, url: str) -> dict[str, Any]:
        try:
            return parse_object(response)
        except InvalidResponse as invalid:
            raise policy.classify_invalid(response, url, str(invalid)) from invalid

    def _clean(self, text: str) -> str:
        """Return text from outside without the key and without control characters."""
        return escape_controls(self._key.scrub(text))

    def _quote(self, response: Response) -> str:
        """Return what a response says, as the rest of a sentence; empty if it says nothing."""
        detail = shorten(self._clean(extract_detail(response, self._key.scrub)))
        return f": {detail}" if detail else ""
