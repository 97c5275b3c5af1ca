"""A software bill of materials: the locked Python packages of a context, as CycloneDX JSON.

The same commit gives the same bytes: there is no time in it, and its serial number is a digest.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple
from uuid import NAMESPACE_OID, uuid5

from buildkit.errors import PROGRAM, SettingError
from buildkit.models import BuildContext, Version
from buildkit.source.locked import Locked, read_locked
from buildkit.workspace import SBOM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cyclonedx.model.component import Component

    from buildkit.source.locked import LockedPackage
    from buildkit.source.tree import SourceTree
    from buildkit.workspace import Workspace

_ALGORITHMS = {"sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}


class Sbom(NamedTuple):
    """What is listed.

    Attributes:
        name: What the packages are for.
    """

    name: str
    locked: Locked

    def save(self, workspace: Workspace) -> None:
        """Write it next to the context that was just packed.

        Raises:
            LocalError: It cannot be written.
        """
        text = render_sbom(self, workspace.load(Version), workspace.load(BuildContext))
        workspace.write(SBOM, text.encode("utf-8"))


def read_sbom(tree: SourceTree) -> Sbom:
    """Return what will be listed; it is read first, so that nothing is packed if it cannot be.

    Raises:
        SettingError: The library that writes it is not installed.
        LocalError: The tree locks no versions.
    """
    if find_spec("cyclonedx") is None:
        raise SettingError(
            "an SBOM needs the package cyclonedx-python-lib, which is not installed",
            f"install the tool with its extra: `pip install '{PROGRAM}[sbom]'`",
        )
    return Sbom(tree.project.name or "agent-server", read_locked(tree.path, tree.project.dependencies))


def render_sbom(sbom: Sbom, version: Version, context: BuildContext) -> str:
    """Return the SBOM of a context as JSON."""
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    by_name: dict[str, list[Component]] = {}
    listed = [(package, _make_component(package)) for package in sbom.locked.packages]
    for package, component in listed:
        by_name.setdefault(package.name, []).append(component)
    root = Component(type=ComponentType.APPLICATION, name=sbom.name, version=version.sha, bom_ref=version.name)
    # Two dirty trees of one commit are two contexts, and have two serial numbers.
    bom = Bom(serial_number=uuid5(NAMESPACE_OID, context.context_sha256))
    bom.metadata.timestamp = None  # type: ignore[assignment]  # the library writes the time now unless it is removed
    bom.metadata.component = root
    bom.metadata.properties.add(Property(name=f"{PROGRAM}:context_sha256", value=context.context_sha256))
    bom.metadata.tools.components.add(Component(type=ComponentType.APPLICATION, name=PROGRAM))
    bom.components.update(component for _, component in listed)
    bom.register_dependency(root, _find(by_name, sbom.locked.direct))
    for package, component in listed:
        bom.register_dependency(component, _find(by_name, package.needs))
    return f"{JsonV1Dot6(bom).output_as_string(indent=2)}\n"


def _make_component(package: LockedPackage) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    url = PackageURL("pypi", None, package.name, package.version)
    # A file is only named, because its place may be a private mirror.
    files = [
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(file.name or url.to_string()),
            hashes=[HashType(alg=HashAlgorithm(_ALGORITHMS[file.algorithm]), content=file.digest)],
        )
        for file in package.files
        if file.algorithm in _ALGORITHMS
    ]
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        purl=url,
        bom_ref=url.to_string(),
        external_references=files,
    )


def _find(components: Mapping[str, Sequence[Component]], names: Iterable[str]) -> list[Component]:
    """Return the components of these names: every version of each, and none for what is not locked."""
    return [component for name in names for component in components.get(name, ())]
