"""cc_library of this project: under a sanitizer with its common headers parsed once (bazel/precompiled.bzl).

In the optimised build every source is compiled by its own includes alone, so a forgotten one is still found.
"""

_DEPS = select({
    "//bazel:sanitized": ["//bazel:precompiled"],
    "//conditions:default": [],
})
_COPTS = select({
    "//bazel:sanitized": [
        "-include",
        "bazel/precompiled.h",
        "-Winvalid-pch",  # a header that does not fit the options is an error, not a slow build
    ],
    "//conditions:default": [],
})

def cc_library(name, srcs = [], deps = [], copts = [], **attributes):
    if srcs:
        deps = deps + _DEPS
        copts = copts + _COPTS
    native.cc_library(name = name, srcs = srcs, deps = deps, copts = copts, **attributes)
