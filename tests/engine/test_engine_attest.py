"""Task `build --attest` with a real BuildKit, a real registry and a scanner of the test's own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.engines import find_engine
from buildkit.engines.options import BuildOptions
from buildkit.errors import BuildFailed
from tests.engine.buildkits import create_bridge, create_builder, make_environment, run_buildkit
from tests.engine.services import build_image
from tests.serving import pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.engines.engine import Engine

# What a scanner does: https://github.com/moby/buildkit/blob/master/docs/attestations/sbom-protocol.md
SCANNER = """#!/bin/sh
cat >"$BUILDKIT_SCAN_DESTINATION/found.spdx.json" <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"SPDXID": "SPDXRef-DOCUMENT", "spdxVersion": "SPDX-2.3", "name": "found by the scanner"}}
END
"""
SCANNER_DOCKERFILE = 'FROM scratch\nADD tiny.tar /\nCOPY scan /scan\nENTRYPOINT ["/bin/sh", "/scan"]\n'


@pytest.fixture
def builder(engine_folder: Path) -> Iterator[Engine]:
    """A BuildKit of today behind a builder called `attesting`."""
    folder = Path(tempfile.mkdtemp(prefix="attest-", dir=engine_folder))
    environment = make_environment(folder)
    create_builder(folder / "attesting", environment)
    with (
        create_bridge() as bridge,
        run_buildkit(folder / "attesting", environment, bridge),
        pytest.MonkeyPatch.context() as own,
    ):
        for name in ("PATH", "DOCKER_CONFIG"):
            own.setenv(name, environment[name])
        own.delenv("DOCKER_HOST", raising=False)
        yield find_engine("buildx", ["attesting"])


def push(builder: Engine, archive: bytes, image: str, path: Path, attest: str = "") -> str:
    """Return the digest of an image that was built and pushed."""
    path.write_bytes(archive)
    built = build_image(builder, path, image, BuildOptions(push=True, network="none", attest=attest))
    assert built.digest
    return built.digest


def test_a_pushed_image_has_the_sbom_of_the_named_scanner_and_provenance(
    builder: Engine, registry: str, tiny_rootfs: Path, tmp_path: Path
) -> None:
    archive, scanner = tmp_path / "context.tar.gz", f"{registry}/scanner:1"
    rootfs = tiny_rootfs.read_bytes()
    push(builder, pack({"tiny.tar": rootfs, "scan": SCANNER}, SCANNER_DOCKERFILE), scanner, archive)

    context = pack({"tiny.tar": rootfs}, "FROM scratch\nADD tiny.tar /\n")
    digest = push(builder, context, f"{registry}/attested:1", archive, attest=scanner)
    found = builder.read_attestations(f"{registry}/attested@{digest}")
    assert found.sbom["name"] == "found by the scanner"
    assert "dockerfile.v0" in json.dumps(found.provenance)


def test_an_image_without_attestations_says_so(
    builder: Engine, registry: str, tiny_rootfs: Path, tmp_path: Path
) -> None:
    context = pack({"tiny.tar": tiny_rootfs.read_bytes()}, "FROM scratch\nADD tiny.tar /\n")
    digest = push(builder, context, f"{registry}/bare:1", tmp_path / "context.tar.gz")
    with pytest.raises(BuildFailed, match="no SBOM or no provenance"):
        builder.read_attestations(f"{registry}/bare@{digest}")


def test_an_engine_that_keeps_no_attestations_says_what_would(
    buildx: Engine, registry: str, tiny_rootfs: Path, tmp_path: Path
) -> None:
    context = pack({"tiny.tar": tiny_rootfs.read_bytes()}, "FROM scratch\nADD tiny.tar /\n")
    with pytest.raises(BuildFailed, match="not supported") as failure:
        push(buildx, context, f"{registry}/plain:1", tmp_path / "context.tar.gz", attest="true")
    assert "--driver docker-container" in failure.value.fix
