"""Compiler options of every target under worker/ (docs/numerics.md, rule d)."""

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
