#include "common/config/byte_size.h"

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(ByteSizeTest, UnitsAreTheOnesWritten) {
  EXPECT_EQ(ParseByteSize("80GiB"), int64_t{80} << 30);
  EXPECT_EQ(ParseByteSize("80 gib"), int64_t{80} << 30);
  EXPECT_EQ(ParseByteSize("80G"), int64_t{80} << 30);
  EXPECT_EQ(ParseByteSize("80GB"), 80'000'000'000);
  EXPECT_EQ(ParseByteSize("1.5TiB"), int64_t{3} << 39);
  EXPECT_EQ(ParseByteSize("512"), 512);
  EXPECT_EQ(ParseByteSize("512B"), 512);
  EXPECT_EQ(ParseByteSize("1KiB"), 1024);
  EXPECT_EQ(ParseByteSize("1kB"), 1000);
  EXPECT_EQ(ParseByteSize("0"), 0);
}

TEST(ByteSizeTest, WhatIsNoSizeIsNone) {
  for (const char* text : {"", "GiB", "80GG", "80GiBs", "-1", "-1GiB", "inf", "nan", "1e30",
                           "80,5GiB", "80 ", " 80", "9999999PiB", "0x10"}) {
    EXPECT_EQ(ParseByteSize(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace dsrun
