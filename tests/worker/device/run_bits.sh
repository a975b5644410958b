#!/bin/sh
# The bit tests of device_test alone, under the environment that BUILD gives. GoogleTest writes the record of its cases.
exec "$1" --gtest_filter='BitsTest.*'
