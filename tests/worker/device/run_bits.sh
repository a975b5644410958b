#!/bin/sh
# The bit tests of device_test and those of products of 16 bits, which depend on the library's instruction set; alone, under the environment that BUILD gives. GoogleTest writes the record of its cases.
exec "$1" --gtest_filter='BitsTest.*:*HalfKernels*'
