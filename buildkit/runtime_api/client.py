"""Client of the Runtime API: responses become models or errors. What is retried, and when, is in `policy`."""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from buildkit.display import escape_controls
from buildkit.errors import SettingError, run
from buildkit.runtime_api import policy, protocol
from buildkit.runtime_api.exchange import ExchangeFailed, read_body
from buildkit.runtime_api.fields import read_features, read_status
from buildkit.runtime_api.http import HttpClient, Network, Request
from buildkit.runtime_api.log import split_lines
from buildkit.runtime_api.policy import ACCEPTED
from buildkit.runtime_api.response import InvalidResponse, extract_detail, parse_object, parse_origin, shorten
from buildkit.runtime_api.retry import TRANSIENT, Clock, RequestFailed, repeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from buildkit.errors import RuntimeBuildError
    from buildkit.runtime_api.protocol import BuildStatus
    from buildkit.runtime_api.response import Response
    from buildkit.secret import ApiKey

T = TypeVar("T")

_NETWORK, _CLOCK = Network(), Clock()
_MIN_TOTAL_S = 0.1
_FEATURES_S = 10.0


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
        self.network = network
        self._key = key
        self._features: frozenset[str] | None = None
        self._allowed_hosts = allowed_hosts
        self._http = HttpClient({"X-API-Key": key.reveal(), "User-Agent": "runtime-build"}, network)

    def registry_prefix(self) -> str | None:
        """Return what image names begin with on this server, without a trailing slash, or None."""
        request = self.make_get(protocol.REGISTRY_PREFIX)
        prefix = self.repeat(lambda: self._get(request)).get("registry_prefix")
        if not isinstance(prefix, str | None):
            raise RequestFailed(
                f"{request} returned a registry_prefix that is not text",
                f"set TARGET_IMAGE to the full image reference, then run {run('upload')} again",
            )
        return self.clean(prefix or "").rstrip("/") or None

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
        request = Request(url, self.network.read_s, {"build_id": build_id}, total_s=total_s)
        response = self.fetch(request)
        if response.status == policy.TOO_MANY:
            # Some servers return this for a build that has ended, if its own error mentions a rate limit.
            with suppress(InvalidResponse):
                status = read_status(parse_object(response), self.clean)
                if status.status in protocol.ENDED:
                    return status
        return read_status(self.parse(request, response), self.clean)

    @contextmanager
    def build_logs(self, build_id: str, *, within_s: float = math.inf) -> Iterator[Iterator[str] | None]:
        """Give the lines of a build's log as they arrive, unescaped but without the key; None if there is no log.

        Args:
            within_s: Seconds for the whole log; it ends with a note if they are not enough.
        """
        url = f"{self.url}{protocol.BUILD_LOGS}"
        request = Request(url, self.network.response_s, {"build_id": build_id}, total_s=within_s)
        with self.open(request) as (head, pieces):
            if head.status in policy.ABSENT or head.status == policy.NO_CONTENT:
                yield None
                return
            if head.status not in ACCEPTED:
                raise self.classify(request, read_body(head, pieces))
            yield (self.scrub(line) for line in split_lines(pieces))

    def image_exists(self, reference: str) -> bool | None:
        """Return whether the server says that it has the image, or None if it does not say. It may be wrong."""
        request = self.make_get(protocol.IMAGE_EXISTS, {"image": reference})
        exists = self.repeat(lambda: self._get(request)).get("exists")
        return exists if isinstance(exists, bool) else None

    def features(self, *, within_s: float = _FEATURES_S) -> frozenset[str]:
        """Return what the server lists as its features, or nothing if it lists none or does not respond properly.

        Asked once and briefly, because most servers have no such list; a list is remembered.
        """
        if self._features is not None:
            return self._features
        total_s = min(self.network.read_s, within_s)
        accept = {"Accept": "application/json"}
        request = Request(f"{self.url}{protocol.FEATURES}", total_s, total_s=total_s, headers=accept)
        try:
            response = self._http.fetch(request)
            if response.status in ACCEPTED:
                self._features = read_features(parse_object(response))
        except (ExchangeFailed, InvalidResponse):
            pass
        return self._features or frozenset()

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

    def repeat(self, request: Callable[[], T]) -> T:
        """Return what `request` returns, repeating it as far as its failures allow."""
        return repeat(request, self.clock)

    def make_get(self, path: str, parameters: Mapping[str, str] | None = None) -> Request:
        """Return a GET of that path below the base URL."""
        return Request(f"{self.url}{path}", self.network.read_s, parameters or {})

    def _get(self, request: Request) -> dict[str, Any]:
        """Return the JSON object of the response, or an empty one if the server does not provide the call."""
        response = self.fetch(request)
        return {} if response.status in policy.ABSENT else self.parse(request, response)

    @contextmanager
    def open(self, request: Request) -> Iterator[tuple[Response, Iterator[bytes]]]:
        """Give the head of the response, whatever its status, and its body as it arrives."""
        self.clock.begin()
        try:
            with self._http.open(request) as opened:
                yield opened
        except ExchangeFailed as failure:
            raise policy.classify_failure(request, failure, self.clean(failure.reason)) from failure

    def fetch(self, request: Request) -> Response:
        """Return the response, whatever its status."""
        with self.open(request) as (head, pieces):
            return read_body(head, pieces)

    def parse(self, request: Request, response: Response) -> dict[str, Any]:
        """Return the JSON object of a response to a GET; raise if that did not succeed."""
        if response.status not in ACCEPTED:
            raise self.classify(request, response)
        try:
            return parse_object(response)
        except InvalidResponse as invalid:
            raise RequestFailed(
                f"{request} returned {response.title}, but {invalid}",
                "run the same command again; if it keeps failing, RUNTIME_API_URL may not be a Runtime API",
                status=response.status,
                retry=TRANSIENT,
            ) from invalid

    def classify(self, request: Request, response: Response) -> RuntimeBuildError:
        """Return the error for a response that is not accepted."""
        return policy.classify_response(request, response, self.quote(response))

    def scrub(self, text: str) -> str:
        """Return text from outside without the key."""
        return self._key.scrub(text)

    def clean(self, text: str) -> str:
        """Return text from outside without the key and without control characters."""
        return escape_controls(self.scrub(text))

    def quote(self, response: Response) -> str:
        """Return what a response says, as the rest of a sentence; empty if it says nothing."""
        detail = shorten(self.clean(extract_detail(response, self.scrub)))
        return f": {detail}" if detail else ""
