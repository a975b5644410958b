#include "worker/device/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <vector>

namespace dsrun::worker {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, ParallelFor_RunsEveryIndexOnce) {
  ThreadPool pool(GetParam());
  for (const int64_t count : {0, 1, 2, 3, 7, 1000}) {
    std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
    pool.ParallelFor(count, [&](int64_t index, int thread) {
      EXPECT_GE(thread, 0);
      EXPECT_LT(thread, GetParam());
      hits[static_cast<size_t>(index)]++;
    });
    for (const auto& hit : hits) EXPECT_EQ(hit, 1);
  }
}

TEST_P(ThreadPoolTest, ParallelFor_ManyShortLoopsInARow) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> sums(8);
  for (int64_t loop = 0; loop < 2000; ++loop) {
    pool.ParallelFor(8, [&](int64_t index, int) { sums[static_cast<size_t>(index)] += loop; });
  }
  for (const int64_t sum : sums) EXPECT_EQ(sum, 2000 * 1999 / 2);
}

TEST_P(ThreadPoolTest, EveryThread_FlushesDenormals) {
  ThreadPool pool(GetParam());
  const int64_t count = 64;
  std::vector<int> flushed(static_cast<size_t>(count));
  std::vector<float> products(static_cast<size_t>(count));
  volatile float smallest = std::numeric_limits<float>::min();
  volatile float half = 0.5f;
  pool.ParallelFor(count, [&](int64_t index, int) {
    flushed[static_cast<size_t>(index)] = FlushesDenormals();
    products[static_cast<size_t>(index)] = smallest * half;  // denormal without the flag
  });
  for (const int flag : flushed) EXPECT_EQ(flag, 1);
  for (const float product : products) EXPECT_EQ(product, 0.0f);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 5));

}  // namespace
}  // namespace dsrun::worker
