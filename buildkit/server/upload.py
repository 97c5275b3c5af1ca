"""One `POST /build` as it arrives: its form is read, its context stored, its names checked, its build queued."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.multipart import parse_options_header

from buildkit.server.images import parse_name
from buildkit.server.json_body import JsonBody
from buildkit.server.multipart_body import MultipartBody
from buildkit.server.records import NewBuild
from buildkit.server.refusals import InvalidBody, Refused

if TYPE_CHECKING:
    from buildkit.server.fields import BuildFields
    from buildkit.server.records import Build
    from buildkit.server.server import Server

_MAX_TAGS = 64


class UploadRequest(NamedTuple):
    """What the headers of an upload say.

    Attributes:
        content_type: Of one of the two forms.
    """

    owner: str
    content_type: str
    idempotency_key: str | None


class Upload:
    """Receives the body of an upload. Whoever creates it ends it with `discard`, also after `finish`.

    Attributes:
        read: Returns what the next piece of the body holds of the context.
        store: Stores and checks that.

    Raises:
        InvalidBody: The body is in neither of the two forms.
    """

    def __init__(self, server: Server, request: UploadRequest) -> None:
        self._server = server
        self._request = request
        self._body = open_body(request.content_type)
        # The second part of a context, which continues a source, is a context like any other until an engine reads it.
        self._incoming = server.contexts.receive(server.options.limits)
        self.read, self.store = self._body.read, self._incoming.write

    def finish(self) -> Build:
        """Return the queued build.

        Raises:
            InvalidBody, InvalidContext, Refused: It is not accepted; nothing is kept.
        """
        fields = self._body.close()
        source = fields.context_sha256
        if source is not None and not self._server.contexts.has_source(source):
            raise Refused(HTTPStatus.CONFLICT, f"the server does not have {source}: PUT it to /contexts/ first")
        names = self._check_names(fields)
        new = NewBuild(
            target_image=names[0],
            tags=names[1:],
            base_image="",
            owner=self._request.owner,
            context_sha256="",
            source_sha256=source,
            idempotency_key=self._request.idempotency_key,
        )
        return self._server.accept(self._incoming, new)

    def discard(self) -> None:
        """Keep nothing of what has been received; does nothing for an accepted build."""
        self._incoming.discard()

    def _check_names(self, fields: BuildFields) -> tuple[str, ...]:
        """Return the image names, the target first, each once."""
        names = tuple(dict.fromkeys((fields.target_image, *fields.tags)))
        if len(names) > _MAX_TAGS:
            raise InvalidBody(f"there are more than {_MAX_TAGS} tags")
        for name in names:
            check_name(name, self._server.options.registry_prefix)
        return names


def open_body(content_type: str) -> JsonBody | MultipartBody:
    """Return a reader for a body of that type.

    Raises:
        InvalidBody: It is neither `application/json` nor `multipart/form-data` with a boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"application/json":
        return JsonBody()
    if kind == b"multipart/form-data" and options.get(b"boundary"):
        return MultipartBody(options[b"boundary"])
    raise InvalidBody("the Content-Type is neither application/json nor multipart/form-data with a boundary")


def check_name(name: str, prefix: str | None) -> None:
    """Refuse an image name that is invalid, or that a key of this server does not give the right to push.

    Raises:
        InvalidBody: It is one of these.
    """
    if parse_name(name, prefix).digest:
        raise InvalidBody(f"an image name cannot have a digest: {name}")
