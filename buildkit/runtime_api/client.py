"""Client of the Runtime API: responses become models or errors. What is retried, and when, is in `policy`."""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from buildkit.display import escape_controls
from buildkit.errors import LocalError, OutcomeUnknown, SettingError, run
from buildkit.runtime_api import policy, protocol
from buildkit.runtime_api.http import ExchangeFailed, HttpClient, Network, Request, read_body
from buildkit.runtime_api.log import split_lines
from buildkit.runtime_api.policy import ACCEPTED, Clock, RequestFailed
from buildkit.runtime_api.protocol import BuildStatus, ListedBuild, StartedBuild
from buildkit.runtime_api.response import (
    InvalidResponse,
    extract_detail,
    parse_object,
    parse_origin,
    read_build_id,
    read_builds,
    read_features,
    read_replica,
    read_status,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from buildkit.runtime_api.response import Response
    from buildkit.runtime_api.upload import UploadAttempt
    from buildkit.secret import ApiKey

_NETWORK, _CLOCK = Network(), Clock()
_ABSENT = frozenset({404, 405, 501})
_NO_CONTENT = 204
_MIN_TOTAL_S = 0.1
_FEATURES_S = 10.0
_UNKNOWN_BUILD = {"build_id": "runtime-build-doctor"}
_PROBES: dict[str, dict[str, str]] = {
    protocol.BUILD: {},
    protocol.BUILD_STATUS: _UNKNOWN_BUILD,
    protocol.BUILD_LOGS: _UNKNOWN_BUILD,
    protocol.REGISTRY_PREFIX: {},
    protocol.IMAGE_EXISTS: {"image": "runtime-build/doctor:none"},
}


class Probe(NamedTuple):
    """How a server responds to GETs that change nothing: the HTTP status by path."""

    statuses: dict[str, int]

    @property
    def is_key_accepted(self) -> bool | None:
        """Whether the server accepts the key; None if no response tells."""
        statuses = set(self.statuses.values())
        return False if statuses & policy.KEY_REFUSED else bool(statuses & ACCEPTED) or None

    def is_served(self, path: str) -> bool | None:
        """Return whether the server provides the call, or None if its status does not tell."""
        status = self.statuses[path]
        if status == policy.NOT_FOUND:
            # Elsewhere, 404 may mean that there is no such build or image, or that only POST is provided.
            return False if path == protocol.REGISTRY_PREFIX else None
        return None if status in policy.KEY_REFUSED or status >= policy.SERVER_ERROR else True


class RuntimeApi:
    """A Runtime API at one base URL. Each call raises `RequestFailed` if there is no usable response.

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
        self._network = network
        self._http = HttpClient({"X-API-Key": key.reveal(), "User-Agent": "runtime-build"}, network)

    def registry_prefix(self) -> str | None:
        """Return what image names begin with on this server, without a trailing slash, or None."""
        request = self._make_get(protocol.REGISTRY_PREFIX)
        prefix = policy.repeat(lambda: self._get(request), self.clock).get("registry_prefix")
        if not isinstance(prefix, str | None):
            raise RequestFailed(
                f"{request} returned a registry_prefix that is not text",
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
            return policy.repeat(lambda: self._try_post(attempt), self.clock)
        except RequestFailed as failure:
            if attempt.outcome_unknown:
                raise policy.keep_unknown(failure) from failure
            if failure.status is None and attempt.may_have_started:
                raise OutcomeUnknown(
                    f"{failure.message}; an earlier try sent the whole upload, so a build may or may not have started",
                    policy.UNKNOWN_FIX,
                ) from failure
            attempt.may_have_started = False
            raise
        except LocalError as error:
            if attempt.outcome_unknown:
                raise policy.keep_unknown(error) from error
            raise

    def _try_post(self, attempt: UploadAttempt) -> StartedBuild:
        """Return the started build; an unknown outcome may be tried again if the server knows the key."""
        try:
            return self._post(attempt)
        except OutcomeUnknown as unknown:
            attempt.may_have_started = True  # before the next request, which may be interrupted
            if not attempt.outcome_unknown:
                # Asked only now, so that servers without features see the same requests as ever until something fails.
                if not attempt.idempotency_key or protocol.IDEMPOTENCY not in self.features():
                    raise
                attempt.outcome_unknown = True
            raise RequestFailed(unknown.message, unknown.fix, retry=policy.TRANSIENT) from unknown

    def _post(self, attempt: UploadAttempt) -> StartedBuild:
        attempt.sent = 0  # each try begins with a connection, which may fail
        headers = {"Idempotency-Key": attempt.idempotency_key} if attempt.idempotency_key else {}
        request = Request(
            f"{self.url}{protocol.BUILD}", self._network.response_s, body=attempt, headers=headers, method="POST"
        )
        response = self._fetch(request)
        if response.status not in ACCEPTED:
            raise policy.classify_response(request, response, self._quote(response))
        try:
            fields = parse_object(response)
            build_id = read_build_id(fields, self._clean)
        except InvalidResponse as invalid:
            raise OutcomeUnknown(
                f"{request} returned {response.title} without a usable build ID: {invalid}; "
                "a build has probably started",
                policy.UNKNOWN_FIX,
            ) from invalid
        replica = read_replica(fields)
        if replica is None or self.may_have_key(replica):
            return StartedBuild(build_id, status_url=replica)
        return StartedBuild(build_id, refused_url=self._clean(replica))

    def build_status(self, build_id: str, status_url: str | None = None, *, within_s: float = math.inf) -> BuildStatus:
        """Return the state of a build, asking once.

        Args:
            status_url: The replica to ask instead of the base URL.
            within_s: Seconds for the whole exchange, if they are fewer than usual.

        Raises:
            SettingError: The replica may not be sent the key.
        """
        base = (status_url or self.url).rstrip("/")
        if not self.may_have_key(base):
            raise SettingError(
                f"the status of the build is at {base}, which is neither RUNTIME_API_URL nor one of ALLOWED_HOSTS",
                f"add its host to ALLOWED_HOSTS if it may be sent the key, then run {run('wait')} again",
            )
        url, total_s = f"{base}{protocol.BUILD_STATUS}", max(_MIN_TOTAL_S, within_s)
        request = Request(url, self._network.read_s, {"build_id": build_id}, total_s=total_s)
        response = self._fetch(request)
        if response.status == policy.TOO_MANY:
            # Some servers return this for a build that has ended, if its own error mentions a rate limit.
            with suppress(InvalidResponse):
                status = read_status(parse_object(response), self._clean)
                if status.status in protocol.ENDED:
                    return status
        return read_status(self._parse(request, response), self._clean)

    @contextmanager
    def build_logs(self, build_id: str, *, within_s: float = math.inf) -> Iterator[Iterator[str] | None]:
        """Give the lines of a build's log as they arrive, unescaped but without the key; None if there is no log.

        Args:
            within_s: Seconds for the whole log; it ends with a note if they are not enough.
        """
        url = f"{self.url}{protocol.BUILD_LOGS}"
        request = Request(url, self._network.response_s, {"build_id": build_id}, total_s=within_s)
        try:
            with self._http.open(request) as (head, pieces):
                if head.status in _ABSENT or head.status == _NO_CONTENT:
                    yield None
                    return
                if head.status not in ACCEPTED:
                    raise policy.classify_response(request, head, self._quote(read_body(head, pieces)))
                yield (self._key.scrub(line) for line in split_lines(pieces))
        except ExchangeFailed as failure:
            raise policy.classify_failure(request, failure, self._clean(failure.reason)) from failure

    def image_exists(self, reference: str) -> bool | None:
        """Return whether the server says that it has the image, or None if it does not say. It may be wrong."""
        request = self._make_get(protocol.IMAGE_EXISTS, {"image": reference})
        exists = policy.repeat(lambda: self._get(request), self.clock).get("exists")
        return exists if isinstance(exists, bool) else None

    def cancel_build(self, build_id: str, *, within_s: float = math.inf) -> str | None:
        """Cancel a build and return its status, or None if the server does not say; it may still be running.

        Args:
            within_s: Seconds for the whole exchange, if there is time for only one try.

        Raises:
            RequestFailed: The server does not know the build, cannot cancel builds, or does not respond.
        """
        url = f"{self.url}{protocol.BUILDS}/{quote(build_id, safe='')}/cancel"
        request = Request(url, self._network.read_s, total_s=within_s, method="POST")
        # Cancelling twice is the same as cancelling once, so a lost response allows another try.
        is_brief = math.isfinite(within_s)
        response = self._require(request) if is_brief else policy.repeat(lambda: self._require(request), self.clock)
        if response.status in _ABSENT:
            if protocol.CANCEL not in self.features():
                raise RequestFailed(
                    f"this Runtime API cannot cancel builds ({request} returned {response.title})",
                    f"{run('wait', '--build-id', build_id)} waits for its end",
                    status=response.status,
                )
            raise RequestFailed(
                f"the server does not know the build {build_id}{self._quote(response)}",
                f"{run('builds')} lists its builds",
                status=response.status,
            )
        return read_status(self._parse(request, response), self._clean).status

    def list_builds(self, parameters: Mapping[str, str]) -> list[ListedBuild]:
        """Return the builds of the server, the newest first.

        Args:
            parameters: `status`, `image`, `limit`: which builds are wanted, as the server understands it.

        Raises:
            RequestFailed: The server does not list them.
        """
        request = self._make_get(protocol.BUILDS, parameters)
        response = policy.repeat(lambda: self._require(request), self.clock)
        if response.status in _ABSENT:
            raise RequestFailed(
                f"this Runtime API does not list builds ({request} returned {response.title})",
                f"ask for one build with {run('wait --build-id ID')}",
                status=response.status,
            )
        try:
            return read_builds(self._parse(request, response), self._clean)
        except InvalidResponse as invalid:
            raise RequestFailed(f"{request} returned {response.title}, but {invalid}", policy.SERVER_FIX) from invalid

    def probe(self) -> Probe:
        """Return which calls the server provides and whether it accepts the key."""
        requests = {path: self._make_get(path, parameters) for path, parameters in _PROBES.items()}
        return Probe({path: self._fetch(request).status for path, request in requests.items()})

    def features(self, *, within_s: float = _FEATURES_S) -> frozenset[str]:
        """Return what the server lists as its features, or nothing if it lists none or does not respond properly.

        Asked once and briefly, because most servers have no such list.
        """
        total_s = min(self._network.read_s, within_s)
        accept = {"Accept": "application/json"}
        request = Request(f"{self.url}{protocol.FEATURES}", total_s, total_s=total_s, headers=accept)
        try:
            response = self._http.fetch(request)
            return read_features(parse_object(response)) if response.status in ACCEPTED else frozenset()
        except (ExchangeFailed, InvalidResponse):
            return frozenset()

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

    def _make_get(self, path: str, parameters: Mapping[str, str] | None = None) -> Request:
        return Request(f"{self.url}{path}", self._network.read_s, parameters or {})

    def _get(self, request: Request) -> dict[str, Any]:
        """Return the JSON object of the response, or an empty one if the server does not provide the call."""
        response = self._fetch(request)
        return {} if response.status in _ABSENT else self._parse(request, response)

    def _require(self, request: Request) -> Response:
        """Return a response that was accepted, or one which says that the server does not provide the call."""
        response = self._fetch(request)
        if response.status not in ACCEPTED | _ABSENT:
            raise policy.classify_response(request, response, self._quote(response))
        return response

    def _fetch(self, request: Request) -> Response:
        self.clock.begin()
        try:
            return self._http.fetch(request)
        except ExchangeFailed as failure:
            raise policy.classify_failure(request, failure, self._clean(failure.reason)) from failure

    def _parse(self, request: Request, response: Response) -> dict[str, Any]:
        """Return the JSON object of a response to a GET; raise if that did not succeed."""
        if response.status not in ACCEPTED:
            raise policy.classify_response(request, response, self._quote(response))
        try:
            return parse_object(response)
        except InvalidResponse as invalid:
            raise RequestFailed(
                f"{request} returned {response.title}, but {invalid}",
                "run the same command again; if it keeps failing, RUNTIME_API_URL may not be a Runtime API",
                status=response.status,
                retry=policy.TRANSIENT,
            ) from invalid

    def _clean(self, text: str) -> str:
        """Return text from outside without the key and without control characters."""
        return escape_controls(self._key.scrub(text))

    def _quote(self, response: Response) -> str:
        """Return what a response says, as the rest of a sentence; empty if it says nothing."""
        detail = shorten(self._clean(extract_detail(response, self._key.scrub)))
        return f": {detail}" if detail else ""
