"""Turn a checkout of an agent server into a build context, have a Runtime API build it, and wait for the image."""
