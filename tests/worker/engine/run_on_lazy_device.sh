#!/bin/sh
# engine_test on a LazyDevice (engine_under_test.h), but for the tests that bring devices of their own. GoogleTest writes the
# record of its cases.
export DSRUN_LAZY_SEED="${DSRUN_LAZY_SEED:-1}" DSRUN_SHORT_LISTS=1
exec "$1" --gtest_filter='-*LazyEngine*:LostDevice*:PlannedMemory*'
