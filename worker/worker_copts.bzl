"""worker_library, and the compiler options of every target under worker/ (docs/numerics.md, rule d)."""

load("//bazel:library.bzl", "cc_library")

# No contraction into fused multiply-adds, no fast-math: the same source has the same bits whatever
# it is compiled for.
WORKER_COPTS = [
    "-ffp-contract=off",
    "-fno-fast-math",
]

# Our hot loops, on top of that: vectorised, and square roots are one instruction (no errno).
LOOP_COPTS = WORKER_COPTS + [
    "-O3",
    "-fno-math-errno",
]

def worker_library(name, **attributes):
    """A cc_library of the worker: with WORKER_COPTS, which no target here may do without."""
    cc_library(name = name, copts = WORKER_COPTS, **attributes)
