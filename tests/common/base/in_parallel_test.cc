#include "common/base/in_parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

namespace dsrun {
namespace {

TEST(InParallel, DoesEveryItemOnce) {
  for (const int threads : {0, 1, 3, 100}) {
    std::vector<std::atomic<int>> done(50);
    std::atomic<size_t> most{0};
    const absl::Status status =
        InParallel("test", done.size(), threads, [&](size_t item, size_t worker) {
          ++done[item];
          if (worker > most) most = worker;
          return absl::OkStatus();
        });
    EXPECT_TRUE(status.ok()) << status;
    for (const auto& count : done) EXPECT_EQ(count, 1);
    EXPECT_LT(most, static_cast<size_t>(threads > 1 ? threads : 1));
  }
  EXPECT_TRUE(InParallel("test", 0, 4, [](size_t, size_t) {
                return absl::InternalError("there is no item");
              }).ok());
}

TEST(InParallel, SaysTheFirstFailureWhateverTheThreadsDo) {
  for (int round = 0; round < 200; ++round) {
    std::atomic<size_t> begun{0};
    const absl::Status status = InParallel("test", 1000, 4, [&](size_t item, size_t) {
      ++begun;
      return item % 10 == 7 ? absl::DataLossError(std::to_string(item)) : absl::OkStatus();
    });
    EXPECT_EQ(status.message(), "7");
    EXPECT_LT(begun, 1000u) << "it went on";
  }
}

TEST(InParallel, UsualJobs_AreFew) {
  EXPECT_GE(UsualJobs(), 1);
  EXPECT_LE(UsualJobs(), 8);
}

}  // namespace
}  // namespace dsrun
