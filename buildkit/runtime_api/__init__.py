"""The Runtime API: the only place that opens a socket."""
