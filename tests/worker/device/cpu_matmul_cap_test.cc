// In a process of its own: the library's cap can be set once.

#include <gtest/gtest.h>

#include <cstdlib>

#include "common/base/cpu_isa.h"
#include "worker/device/cpu/cpu_matmul.h"

namespace dsrun::worker {
namespace {

// In a process each. Which instructions multiply bf16 follows from the cap alone.
TEST(CpuMatmulCapDeathTest, EveryCap_HasItsNameInTheFingerprint_AndItsProductsOfBf16) {
  for (const CpuIsa isa :
       {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16}) {
    if (isa > BestLibraryIsa()) continue;
    const auto holds = [&] {
      return CapLibraryIsa(isa).ok() && MatrixLibraryInUse().isa == IsaName(isa) &&
             Bf16IsNative() == (isa == CpuIsa::kAvx512Bf16);
    };
    EXPECT_EXIT(std::exit(holds() ? 0 : 1), ::testing::ExitedWithCode(0), "") << IsaName(isa);
  }
}

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
