"""Our own Runtime API: it accepts contexts, keeps them in order, and has an engine build each one."""
