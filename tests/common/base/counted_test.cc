#include "common/base/counted.h"

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(Counted, OneIsSingular_AllOthersPlural) {
  EXPECT_EQ(Counted(0, "rank"), "0 ranks");
  EXPECT_EQ(Counted(1, "rank"), "1 rank");
  EXPECT_EQ(Counted(2, "rank"), "2 ranks");
  EXPECT_EQ(Counted(1, "process"), "1 process");
  EXPECT_EQ(Counted(3, "process"), "3 processes");
  EXPECT_EQ(Counted(4, "micro-batch"), "4 micro-batches");
}

}  // namespace
}  // namespace dsrun
