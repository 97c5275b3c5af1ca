"""The schemas that Kubernetes publishes."""

from __future__ import annotations

from typing import Any


def find_schema_error(document: dict[str, Any], version: str) -> str:
    """Return how a manifest breaks the schema of its kind, in which a field that it does not have is an error."""
    import kubernetes_validate  # only where it is used, because it takes seconds

    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return ""
