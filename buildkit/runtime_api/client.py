"""Client of the Runtime API: answers become models or errors. What is tried again, and when, is in `policy`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from buildkit.display import escape_controls
from buildkit.errors import SettingError
from buildkit.runtime_api import policy
from buildkit.runtime_api.answer import OddAnswer, extract_detail, parse_object, shorten, split_lines
from buildkit.runtime_api.body import open_body
from buildkit.runtime_api.policy import ACCEPTED, RequestFailed
from buildkit.runtime_api.replies import (
    ENDED,
    BuildStatus,
    Endpoint,
    Probe,
    StartedBuild,
    parse_origin,
    read_build_id,
    read_replica,
    read_status,
)
from buildkit.runtime_api.transport import NoAnswer, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from buildkit.runtime_api.answer import Answer
    from buildkit.secret import ApiKey

_ABSENT = frozenset({404, 405, 501})
_NO_CONTENT = 204
_KEY_REFUSED = frozenset({401, 403})
_UNKNOWN_BUILD = {"build_id": "runtime-build-doctor"}
_PROBES: tuple[tuple[str, dict[str, str]], ...] = (
    ("/build", {}),
    ("/build_status", _UNKNOWN_BUILD),
    ("/build_logs", _UNKNOWN_BUILD),
    ("/registry_prefix", {}),
    ("/image_exists", {"image": "runtime-build/doctor:none"}),
)


class RuntimeApi:
    """A Runtime API at one base URL. Use it in a `with` statement, or call `close`.

    Args:
        url: Base URL, with or without a path and a trailing slash.
        allowed_hosts: Further hosts, each `host` or `host:port`, that may be sent the key.
        stall_timeout_s: How long the server may stop reading an upload.
        answer_timeout_s: For the whole answer to `POST /build`, and for a log.
        read_timeout_s: For the whole answer to any other request.
        sleep: Replaced in tests, so that no test waits.
    """

    def __init__(
        self,
        url: str,
        key: ApiKey,
        *,
        allowed_hosts: frozenset[str] = frozenset(),
        connect_timeout_s: float = 10,
        stall_timeout_s: float = 60,
        answer_timeout_s: float = 300,
        read_timeout_s: float = 30,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._allowed_hosts = allowed_hosts
        self._answer_timeout_s = answer_timeout_s
        self._read_timeout_s = read_timeout_s
        self._sleep = sleep
        headers = {"X-API-Key": key.reveal(), "User-Agent": "runtime-build"}
        self._transport = Transport(headers, connect_timeout_s=connect_timeout_s, stall_timeout_s=stall_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open."""
        self._transport.close()

    def registry_prefix(self) -> str | None:
        """Return what image names begin with on this server, without a slash at the end; None where there is nothing.

        Raises:
            RequestFailed: Also after trying again.
        """
        url = f"{self.url}/registry_prefix"
        answer = policy.repeat(lambda: self._get(url, also=_ABSENT), self._sleep)
        if answer.status in _ABSENT:
            return None
        prefix = self._parse(answer, url).get("registry_prefix")
        if not isinstance(prefix, str | None):
            raise RequestFailed(
                f"GET {url} gives a registry_prefix that is not a text",
                "set TARGET_IMAGE to the full image reference, then run `invoke upload` again",
            )
        return self._clean(prefix or "").rstrip("/") or None

    def start_build(
        self,
        archive: Path,
        target_image: str,
        tags: Sequence[str],
        *,
        upload_format: str,
        progress: Callable[[int, int], None],
    ) -> StartedBuild:
        """Return the build that the server has started from the archive.

        Args:
            tags: Full image references besides `target_image`.
            progress: Called with the bytes of the body that are on their way, and its length; with 0 and 0 where a
                try has failed and started nothing.

        Raises:
            NotStarted: It is certain that the server has no build of this call.
            OutcomeUnknown: It may have one.
            LocalError: The archive cannot be read, so the server cannot have the whole of it.
        """

        def post() -> StartedBuild:
            try:
                return post_once()
            except RequestFailed:
                progress(0, 0)  # what was sent has come to nothing
                raise

        def post_once() -> StartedBuild:
            with open_body(archive, target_image, tags, upload_format=upload_format, progress=progress) as body:
                try:
                    answer = self._transport.exchange(
                        "POST", f"{self.url}/build", answer_timeout_s=self._answer_timeout_s, body=body
                    )
                except NoAnswer as lost:
                    reason, out, length = self._clean(lost.reason), body.sent, len(body)
                    raise policy.judge_lost_post(lost, self.url, reason, sent_bytes=out, total_bytes=length) from lost
            if answer.status in ACCEPTED:
                return self._read_started(answer)
            said = self._quote(answer)
            raise policy.judge_post(answer, self.url, said, upload_format=upload_format, total_bytes=len(body))

        return policy.repeat(post, self._sleep)

    def build_status(
        self, build_id: str, status_url: str | None = None, *, within_s: float | None = None
    ) -> BuildStatus:
        """Return how a build stands, asking once.

        Args:
            status_url: The replica to ask instead of the base URL.
            within_s: Seconds for the answer, where they are fewer than usual.

        Raises:
            RequestFailed: With `is_passing`, where it makes sense to ask later.
            SettingError: The replica may not be sent the key.
        """
        base = (status_url or self.url).rstrip("/")
        if not self.may_have_key(base):
            raise SettingError(
                f"the build is watched at {base}, which is neither RUNTIME_API_URL nor one of ALLOWED_HOSTS",
                "add its host to ALLOWED_HOSTS where it may be sent the key, then run `invoke wait` again",
            )
        url = f"{base}/build_status"
        answer = self._get(url, {"build_id": build_id}, also=frozenset({policy.TOO_MANY}), within_s=within_s)
        if answer.status in ACCEPTED:
            return read_status(self._parse(answer, url), self._clean)
        # Some servers answer 429 for a build that has ended, when only its own error speaks of a rate limit.
        try:
            status = read_status(parse_object(answer), self._clean)
        except OddAnswer:
            raise policy.judge_get(answer, url, self._quote(answer)) from None
        if status.status not in ENDED:
            raise policy.judge_get(answer, url, self._quote(answer))
        return status

    def build_logs(self, build_id: str) -> Iterator[str] | None:
        """Return the lines of a build's log, as they are but without the key; None where the server has no log.

        Raises:
            RequestFailed: The server does not give it.
        """
        url = f"{self.url}/build_logs"
        try:
            answer, pieces = self._transport.stream(
                url, answer_timeout_s=self._answer_timeout_s, params={"build_id": build_id}
            )
        except NoAnswer as lost:
            raise policy.judge_lost_get(lost, url, self._clean(lost.reason)) from lost
        if answer.status in _ABSENT or answer.status == _NO_CONTENT:
            return None
        if answer.status not in ACCEPTED:
            raise policy.judge_get(answer, url, self._quote(answer))
        return (self._key.scrub(line) for line in split_lines(pieces))

    def image_exists(self, reference: str) -> bool | None:
        """Return whether the server says that it has the image; None where it says nothing. It may be wrong.

        Raises:
            RequestFailed: It gives no answer.
        """
        url = f"{self.url}/image_exists"
        answer = self._get(url, {"image": reference}, also=_ABSENT)
        exists = None if answer.status in _ABSENT else self._parse(answer, url).get("exists")
        return exists if isinstance(exists, bool) else None

    def probe(self) -> Probe:
        """Return which calls the server knows and whether it takes the key, by GETs that change nothing.

        Raises:
            RequestFailed: It cannot be reached.
        """
        endpoints = tuple(self._probe(path, params) for path, params in _PROBES)
        statuses = {endpoint.status for endpoint in endpoints}
        return Probe(endpoints, False if statuses & _KEY_REFUSED else bool(statuses & ACCEPTED) or None)

    def may_have_key(self, url: str) -> bool:
        """Return whether the key may be sent there: to the base URL's origin, and to hosts that the user allows.

        Never in the clear where the base URL is not.
        """
        own, other = parse_origin(self.url), parse_origin(url)
        if own is None or other is None:
            return False
        scheme, host, port = other
        is_allowed = not self._allowed_hosts.isdisjoint({host, f"{host}:{port}"})
        return own == other or (is_allowed and scheme in ("https", own[0]))

    def _probe(self, path: str, params: dict[str, str]) -> Endpoint:
        status = self._exchange(f"{self.url}{path}", params).status
        # 404 may also mean that there is no such build or image, or that only POST is served there.
        is_open = status in _KEY_REFUSED or status >= 500 or (status == 404 and path != "/registry_prefix")  # noqa: PLR2004
        return Endpoint(path, status, None if is_open else status != 404)  # noqa: PLR2004

    def _get(
        self,
        url: str,
        params: dict[str, str] | None = None,
        *,
        also: frozenset[int] = frozenset(),
        within_s: float | None = None,
    ) -> Answer:
        """Return the answer to a GET, with a status of success or one of `also`."""
        answer = self._exchange(url, params, within_s)
        if answer.status in ACCEPTED or answer.status in also:
            return answer
        raise policy.judge_get(answer, url, self._quote(answer))

    def _exchange(self, url: str, params: dict[str, str] | None, within_s: float | None = None) -> Answer:
        timeout_s = self._read_timeout_s if within_s is None else max(0.1, min(within_s, self._read_timeout_s))
        try:
            return self._transport.exchange("GET", url, params=params, answer_timeout_s=timeout_s)
        except NoAnswer as lost:
            raise policy.judge_lost_get(lost, url, self._clean(lost.reason)) from lost

    def _parse(self, answer: Answer, url: str) -> dict[str, Any]:
        try:
            return parse_object(answer)
        except OddAnswer as odd:
            raise policy.judge_odd_get(answer, url, str(odd)) from odd

    def _read_started(self, answer: Answer) -> StartedBuild:
        try:
            fields = parse_object(answer)
            build_id = read_build_id(fields, self._clean)
        except OddAnswer as odd:
            raise policy.judge_odd_post(answer, self.url, str(odd)) from odd
        replica = read_replica(fields)
        if replica is None or self.may_have_key(replica):
            return StartedBuild(build_id, status_url=replica)
        return StartedBuild(build_id, refused_url=self._clean(replica))

    def _clean(self, text: str) -> str:
        """Return text from outside without the key and without control characters."""
        return escape_controls(self._key.scrub(text))

    def _quote(self, answer: Answer) -> str:
        """Return what an answer says, as the rest of a sentence; empty where it says nothing."""
        detail = shorten(self._clean(extract_detail(answer, self._key.scrub)))
        return f": {detail}" if detail else ""
