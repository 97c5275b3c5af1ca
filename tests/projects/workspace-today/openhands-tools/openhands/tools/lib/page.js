// `lib/` in .dockerignore must not reach this.
