// A device that is lost in the middle, as a GPU with a sticky error: nothing that was enqueued
// ends, and every call fails from then on. Only another process helps, and it helps its rank alone.

#include <cstdint>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/support/short_lists.h"
#include "tests/worker/engine/engine_under_test.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/worker_cluster.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

constexpr int kWidth = 2;
const Rank kVictim(1);

// How many operations the victim's device does in the whole job.
int64_t OperationsOfTheJob() {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  LazyDevice* device = nullptr;
  cluster.adjust_engine = [&](Rank rank, Engine& engine) {
    if (rank == kVictim) device = &PutOnLazyDevice(Job().train(), 1, engine);
  };
  for (const auto& outcome : cluster.Run(kWidth)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_NE(device, nullptr);
  return device == nullptr ? 0 : device->operations();
}

TEST(LostDeviceTest, AtAnyOperation_ItsProcessAloneIsReplacedAndNoBitIsLost) {
  const int64_t operations = OperationsOfTheJob();
  ASSERT_GT(operations, 1000);
  std::mt19937_64 random(20261128);
  for (int trial = 0; trial < (kThreadSanitizer ? 4 : 16) && !HasFailure(); ++trial) {
    // Short of the end: a start measures for a time, and does more or less in it.
    const auto at = static_cast<int64_t>(random() % static_cast<uint64_t>(operations / 2));
    SCOPED_TRACE("operation " + std::to_string(at) + " of " + std::to_string(operations));
    FaultyFileSystem fs;
    WorkerCluster cluster(Job(), fs);
    bool replaced = false;
    cluster.adjust_engine = [&](Rank rank, Engine& engine) {
      if (rank != kVictim || replaced) return;
      PutOnLazyDevice(Job().train(), random(), engine).LoseAfter(at);
    };
    cluster.on_outcome = [&](Rank, const absl::Status& status) {
      if (!status.ok()) cluster.Announce();  // as the coordinator does
    };
    const auto outcomes = cluster.Run(kWidth);
    ASSERT_FALSE(outcomes[1].ok());
    EXPECT_EQ(VerdictOf(outcomes[1].status()), proto::Failed::kReplaceProcess)
        << outcomes[1].status();
    EXPECT_NE(outcomes[1].status().message().find("the device is lost"), std::string::npos)
        << outcomes[1].status();
    if (!outcomes[0].ok()) {
      EXPECT_EQ(VerdictOf(outcomes[0].status()), proto::Failed::kRetry) << outcomes[0].status();
    }
    cluster.Kill(kVictim);
    replaced = true;
    for (const auto& outcome : cluster.Run(kWidth)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(NewestHash(fs), UndisturbedHash());
  }
}

}  // namespace
}  // namespace dsrun::worker
