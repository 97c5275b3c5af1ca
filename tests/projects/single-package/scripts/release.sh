# Not part of the package.
