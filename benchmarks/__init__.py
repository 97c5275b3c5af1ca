"""How fast `runtime-build` is, against what people would use instead: `python -m benchmarks --help`."""
