// In the source distribution only.
