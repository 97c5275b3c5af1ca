"""This repository's tasks: those of `buildkit`, on the example."""

from buildkit.tasks import make_collection

ns = make_collection(__file__, SOURCE_DIR="examples/agent-server")
