"""Needs foo."""

import foo
