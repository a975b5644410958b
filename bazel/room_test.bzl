"""room_test: the tests of a folder (a room) as one program, so that a new *_test.cc needs no target of its own; test_library."""

# Test code itself is not optimised: it is compiled more often than it runs. What it tests is.
TEST_COPTS = [
    "-O0",
    "-U_FORTIFY_SOURCE",  # which wants optimisation
]

# From precompiled.bzl; a header that does not fit the options is an error, not a slow build.
_PRECOMPILED_COPTS = [
    "-include",
    "tests/support/precompiled.h",
    "-Winvalid-pch",
]

def room_test(name, deps, helpers = [], apart = {}, copts = [], size = "medium", **attributes):
    """One GoogleTest program of every *_test.cc of this folder, but for those that `apart` names.

    One program a room is linked once instead of once a file. A file stands apart where it needs another tag, other data or
    shards, which belong to whole programs; each names its reason in the BUILD file. No file can be forgotten: what no entry
    of `apart` takes is in `name`.

    Args:
      name: the program of the rest, "<room>_test".
      deps: what the rest needs; GoogleTest and its main come by themselves.
      helpers: further sources of the rest: .cc and .h that only these tests use.
      apart: {name: attributes of a cc_test}. "srcs" is given; "deps" is given where there are any.
      copts: of all of them.
      size: of all of them, unless an entry says otherwise.
      **attributes: of the rest, as for cc_test.
    """
    taken = []
    for other, given in apart.items():
        one = dict(given)
        taken += one["srcs"]
        _program(name = other, copts = copts, size = one.pop("size", size), deps = one.pop("deps", []), **one)
    _program(
        name = name,
        srcs = native.glob(["*_test.cc"], exclude = taken) + helpers,
        copts = copts,
        size = size,
        deps = deps,
        **attributes
    )

def test_library(name, copts = [], deps = [], **attributes):
    """A cc_library for tests of several rooms. Without the precompiled header: Bazel may also want it position-independent."""
    native.cc_library(
        name = name,
        testonly = 1,
        copts = copts + TEST_COPTS,
        deps = deps,
        **attributes
    )

def _program(name, srcs, copts, deps, **attributes):
    native.cc_test(
        name = name,
        srcs = srcs,
        copts = copts + TEST_COPTS + _PRECOMPILED_COPTS,
        deps = deps + ["//tests/support:precompiled", "//third_party:gtest_main"],
        **attributes
    )
