#!/usr/bin/env bash
# Bazel 4.2 needs a Python tool chain for py_test; a shell test that starts Debian's python3 needs nothing.
exec /usr/bin/python3 "$@"
