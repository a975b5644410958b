#include "worker/device/cpu/cpu_matmul.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "absl/status/status.h"

namespace dsrun::worker {
namespace {

int64_t ThreadsOfThisProcess() {
  int64_t count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator("/proc/self/task")) {
    ++count;
  }
  return count;
}

TEST(CpuMatmulTest, Tiles_DependOnShapeAloneAndCoverIt) {
  for (const int64_t m : {1, 15, 128, 192, 256, 257, 768, 4096}) {
    for (const int64_t n : {1, 17, 384, 385, 768, 2304, 50257}) {
      for (const TileWork work : {TileWork::kLittle, TileWork::kSecondMatrix}) {
        const Tiling t = TilesOf(m, n, work);
        EXPECT_GE(t.tile_m * t.count_m, m);
        EXPECT_LT(t.tile_m * (t.count_m - 1), m);
        EXPECT_GE(t.tile_n * t.count_n, n);
        EXPECT_LT(t.tile_n * (t.count_n - 1), n);
      }
    }
  }
}

TEST(CpuMatmulTest, Library_StartsNoThreads) {
  ThreadPool pool(2);
  TiledMatmul matmul(pool);
  const int64_t n = 600;
  std::vector<float> a(static_cast<size_t>(n * n), 1.0f);
  std::vector<float> c(a.size());
  const int64_t before = ThreadsOfThisProcess();
  matmul.Run(n, n, n, {a.data(), n}, {a.data(), n}, c.data(), n);
  // OpenMP keeps the threads that it has started: they would still be there.
  EXPECT_EQ(ThreadsOfThisProcess(), before);
  for (const float value : c) ASSERT_EQ(value, 600.0f);
}

// The numerics fingerprint says by which instructions bf16 is multiplied.
TEST(CpuMatmulTest, Bf16IsNative_FollowsFromTheInstructionSetInUse) {
  const std::string isa = MatrixLibraryInUse().isa;
  EXPECT_EQ(Bf16IsNative(), isa == "avx512-bf16" || isa == "avx512-amx") << isa;
}

TEST(CpuMatmulTest, CapLibraryIsa_AfterFirstUse_IsRefused) {
  const float one = 1;
  float c = 0;
  SerialMatmul(1, 1, 1, 1, {&one, 1}, {&one, 1}, 0, &c, 1);
  const std::string before = MatrixLibraryInUse().isa;
  const absl::Status status = CapLibraryIsa(CpuIsa::kAvx2);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(MatrixLibraryInUse().isa, before);
}

}  // namespace
}  // namespace dsrun::worker
