// Stages of ZeRO: who holds what, never a bit (common/plan/zero_stage.h).

#include "common/plan/zero_stage.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "common/plan/memory_input.h"
#include "common/plan/traffic_plan.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"
#include "tests/worker/engine/wrappers.h"

namespace dsrun::worker {
namespace {

// 4 and 6: ranks of one atom beside others of two, and of one alone.
TEST(ZeroStageTest, Stage0_HasTheBitsOfStage1) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const TrainedState plain = Train(spec, 1, 3);
  spec.set_zero_stage(0);
  for (const auto& [width, bucket, overlap] : {std::tuple(1, 64 << 10, true),
                                               {2, 4 << 10, false},
                                               {3, 1 << 20, true},
                                               {4, 64 << 10, false},
                                               {4, 4 << 10, true},
                                               {6, 64 << 10, true}}) {
    SCOPED_TRACE(std::to_string(width) + " ranks, buckets of " + std::to_string(bucket));
    spec.set_bucket_bytes(bucket);
    spec.set_overlap_comm(overlap);
    EXPECT_TRUE(Train(spec, width, 3).SameBits(plain));
  }
}

TEST(ZeroStageTest, FastSumsUnderStage0_HaveTheBitsOfStage1) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  spec.set_sums("fast");
  const TrainedState plain = Train(spec, 4, 3);
  spec.set_zero_stage(0);
  EXPECT_TRUE(Train(spec, 4, 3).SameBits(plain));
}

TEST(ZeroStageTest, StageThatThereIsNot_IsRefused) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/1);
  for (const int stage : {-1, 4}) {
    spec.set_zero_stage(stage);
    OnRanks(spec, 1, [&](Trainer::Setup& setup) {
      const absl::Status status = Trainer::Create(setup).status();
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_NE(status.message().find("ZeRO stage " + std::to_string(stage)), std::string::npos)
          << status;
    });
  }
}

class CountingCommunicator : public CommunicatorWrapper {
 public:
  using CommunicatorWrapper::CommunicatorWrapper;
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    for (const SendOp& send : sends) {
      sent[what.substr(0, what.find(" bucket"))] += static_cast<int64_t>(send.bytes);
    }
    return CommunicatorWrapper::Exchange(sends, recvs, what);
  }
  std::map<std::string, int64_t> sent;  // bytes, by what they are
};

constexpr int kSteps = 2;

// What each rank is to send in a step, by the plan, and what it has sent in kSteps of them.
struct Traffic {
  std::vector<PlannedTraffic> planned;
  std::vector<std::unique_ptr<CountingCommunicator>> counted;
};

Traffic TrafficOf(const proto::TrainSpec& spec, int width) {
  MemoryInput input = MemoryInputFromProto(spec);
  input.width = width;
  Traffic traffic{PlanTraffic(input), {}};
  traffic.counted.resize(static_cast<size_t>(width));
  Train(spec, width, kSteps, {.adjust = [&](Trainer::Setup& setup) {
          auto& mine = traffic.counted[static_cast<size_t>(setup.communicator->rank())];
          mine = std::make_unique<CountingCommunicator>(*setup.communicator);
          setup.communicator = mine.get();
        }});
  return traffic;
}

TEST(ZeroStageTest, BytesSentAreThoseOfThePlan) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  for (const auto& [width, stage, sums] : {std::tuple(4, 0, "exact"),
                                           {4, 1, "exact"},
                                           {6, 0, "exact"},
                                           {3, 1, "fast"},
                                           {4, 2, "exact"},  // two rounds, one without two ranks
                                           {3, 2, "fast"},
                                           {4, 2, "fast"},
                                           {6, 2, "exact"},
                                           {4, 3, "exact"},
                                           {3, 3, "recomputed"},
                                           {1, 0, "exact"},
                                           {1, 2, "exact"}}) {
    SCOPED_TRACE(std::to_string(width) + " ranks, stage " + std::to_string(stage) + ", " + sums);
    spec.set_zero_stage(stage);
    const bool recomputed = std::string(sums) == "recomputed";
    spec.set_sums(recomputed ? "exact" : sums);
    spec.mutable_recompute()->set_every(recomputed ? 1 : 0);
    const auto [plan, counting] = TrafficOf(spec, width);
    for (size_t rank = 0; rank < plan.size(); ++rank) {
      std::map<std::string, int64_t>& sent = counting[rank]->sent;
      EXPECT_EQ(sent["reduce-scatter"], kSteps * plan[rank].reduce) << rank;
      if (stage == 3) {
        int64_t gathered = 0;
        for (const auto& [what, bytes] : sent) {
          if (what.starts_with("all-gather parameters of ") ||
              what == "all-gather persistent parameters") {
            gathered += bytes;
          }
        }
        EXPECT_EQ(gathered, kSteps * plan[rank].gather) << rank;
        continue;
      }
      EXPECT_EQ(sent[stage == 0 ? "all-gather gradients" : "all-gather"],
                kSteps * plan[rank].gather)
          << rank;
      EXPECT_EQ(sent[stage == 0 ? "all-gather" : "all-gather gradients"], 0) << rank;
      EXPECT_EQ(sent["all-gather optimizer"], plan[rank].once) << rank;
    }
  }
}

TEST(ZeroStageTest, BytesOfMuonsMatrices_AreThoseOfThePlan) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  spec.mutable_optimizer()->set_name("muon");
  for (const int width : {1, 3, 4}) {
    for (const int stage : {0, 1, 3}) {
      SCOPED_TRACE(std::to_string(width) + " ranks, stage " + std::to_string(stage));
      spec.set_zero_stage(stage);
      const auto [plan, counting] = TrafficOf(spec, width);
      for (size_t rank = 0; rank < plan.size(); ++rank) {
        int64_t sent = 0;
        for (const auto& [what, bytes] : counting[rank]->sent) {
          if (what.find(" matrices of round ") != std::string::npos) sent += bytes;
        }
        EXPECT_EQ(sent, kSteps * plan[rank].matrices) << rank;
        EXPECT_EQ(sent > 0, width > 1) << rank;
      }
    }
  }
}

// Trains to step 7 under one stage, goes on with another and another width from the checkpoint of
// step 6: a rank of stage 0 reads its own share and hears the others'.
TEST(ZeroStageTest, CheckpointOfAnyStage_GoesOnUnderAnyOther) {
  for (const int first_stage : {0, 1, 2, 3}) {
    for (const int then_stage : {0, 1, 2, 3}) {
      SCOPED_TRACE(std::to_string(first_stage) + ", then " + std::to_string(then_stage));
      FaultyFileSystem fs;
      proto::JobSpec job = Job();
      job.mutable_train()->set_zero_stage(first_stage);
      WorkerCluster first(job, fs);
      first.on_message = [&](Rank, const proto::WorkerMessage& message) {
        if (message.has_step_done() && message.step_done().step() == 7) first.Announce();
      };
      first.Run(3);
      job.mutable_train()->set_zero_stage(then_stage);
      WorkerCluster then(job, fs);
      for (const auto& outcome : then.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
      EXPECT_EQ(NewestHash(fs), UndisturbedHash());
    }
  }
}

// Buckets of one leaf: the first rank owns all of them, and the other stores nothing.
TEST(ZeroStageTest, RankThatStoresNothing_TrainsUnderStage3) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  job.mutable_train()->set_zero_stage(3);
  job.mutable_train()->set_bucket_bytes(4096);
  WorkerCluster cluster(job, fs);
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

}  // namespace
}  // namespace dsrun::worker
