// In a process of its own: the library's cap can be set once.

#include <gtest/gtest.h>

#include "worker/device/cpu/cpu_matmul.h"

namespace dsrun::worker {
namespace {

TEST(CpuMatmulCapTest, CapLibraryIsa_BeforeFirstUse_Holds) {
  ASSERT_TRUE(CapLibraryIsa(CpuIsa::kBaseline).ok());
  EXPECT_EQ(MatrixLibraryInUse().isa, "baseline");
  EXPECT_FALSE(Bf16IsNative());
  const float two = 2;
  float c = 0;
  SerialMatmul(1, 1, 1, 1, {&two, 1}, {&two, 1}, 0, &c, 1);
  EXPECT_EQ(c, 4);
}

}  // namespace
}  // namespace dsrun::worker
