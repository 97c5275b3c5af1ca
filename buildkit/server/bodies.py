"""The two forms of `POST /build`, by the request's Content-Type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header

from buildkit.server.fields import BuildFields
from buildkit.server.json_body import JsonBody
from buildkit.server.multipart_body import MultipartBody
from buildkit.server.rejections import InvalidBody

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BuildFields", "InvalidBody", "JsonBody", "MultipartBody", "open_body"]


def open_body(content_type: str, sink: Callable[[bytes], object]) -> JsonBody | MultipartBody:
    """Return a reader for a body of that type.

    Args:
        sink: Called with the decoded bytes of the context as they arrive.

    Raises:
        InvalidBody: It is neither `application/json` nor `multipart/form-data` with a boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"application/json":
        return JsonBody(sink)
    if kind == b"multipart/form-data" and options.get(b"boundary"):
        return MultipartBody(options[b"boundary"], sink)
    raise InvalidBody("the Content-Type is neither application/json nor multipart/form-data with a boundary")
