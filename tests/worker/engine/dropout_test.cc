// Training with dropout: the same bits in every layout, whoever computes which micro-batch; and
// what is dropped where.

#include "common/numerics/dropout.h"

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/cpu_isa.h"
#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/support/short_lists.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"

namespace dsrun::worker {
namespace {

constexpr int kSteps = 4;

void Drop(proto::TrainSpec& spec, double hidden = 0.1, double attention = 0.2) {
  spec.set_hidden_dropout(hidden);
  spec.set_attention_dropout(attention);
}

proto::TrainSpec Spec(bool llama = false) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  if (llama) {
    ModelSpec model = FindPreset("llama-nano").value();
    model.num_layers = 2;
    model.hidden_size = 48;
    model.num_attention_heads = 4;
    model.query_groups = 2;
    model.ffn_hidden_size = 128;
    model.seq_length = 24;
    ToProto(model, spec.mutable_model());
  }
  Drop(spec);
  return spec;
}

TEST(DropoutTest, EveryWidthStageThreadCountAndRecomputation_HasTheSameBits) {
  for (const bool llama : {false, true}) {
    const TrainedState one = Train(Spec(llama), 1, kSteps);
    const auto expect_same = [&](const std::string& what, int width,
                                 const std::function<void(proto::TrainSpec&)>& change) {
      proto::TrainSpec spec = Spec(llama);
      change(spec);
      EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps)))
          << (llama ? "llama, " : "gpt2, ") << what << ", width " << width;
    };
    for (const int width : AllOrLast({1, 2, 3})) {
      for (const int stage : AllOrLast({0, 1, 2, 3})) {
        expect_same("stage " + std::to_string(stage), width,
                    [&](proto::TrainSpec& spec) { spec.set_zero_stage(stage); });
      }
      expect_same("two threads", width,
                  [](proto::TrainSpec& spec) { spec.set_threads_per_rank(2); });
      for (const int every : {1, 2}) {
        expect_same("recomputed every " + std::to_string(every), width,
                    [&](proto::TrainSpec& spec) { spec.mutable_recompute()->set_every(every); });
      }
      expect_same("recomputed by budget", width, [](proto::TrainSpec& spec) {
        spec.mutable_recompute()->set_budget_bytes(300'000);
      });
    }
  }
}

// What a mask by a rank's own count of micro-batches would not give.
TEST(DropoutTest, AnyMicroBatchOnAnyRank_InAnyOrder) {
  const TrainedState one = Train(Spec(), 1, kSteps);
  EXPECT_TRUE(one.SameBits(Train(Spec(), 1, kSteps, {.atoms = {{5, 2, 0, 3, 1, 4}}})));
  EXPECT_TRUE(one.SameBits(Train(Spec(), 2, kSteps, {.atoms = {{4, 1}, {5, 0, 3, 2}}})));
  EXPECT_TRUE(one.SameBits(Train(Spec(), 3, kSteps, {.atoms = {{3}, {0, 5, 1}, {4, 2}}})));
}

TEST(DropoutTest, EveryInstructionSet_DropsTheSame) {
  const TrainedState best = Train(Spec(), 1, kSteps);
  for (const CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa > BestIsa()) continue;
    proto::TrainSpec spec = Spec();
    spec.set_isa_cap(IsaName(isa));  // of our loops; the library of this process stays
    EXPECT_TRUE(best.SameBits(Train(spec, 2, kSteps))) << IsaName(isa);
  }
}

TEST(DropoutTest, SixteenBits_HaveTheSameBitsInEveryLayout) {
  for (const char* const precision : {"bf16", "fp16"}) {
    proto::TrainSpec spec = Spec(/*llama=*/precision == std::string("fp16"));
    spec.set_precision(precision);
    const TrainedState one = Train(spec, 1, kSteps);
    for (const int stage : AllOrLast({0, 1, 3})) {
      spec.set_zero_stage(stage);
      spec.mutable_recompute()->set_every(stage == 1 ? 1 : 0);
      EXPECT_TRUE(one.SameBits(Train(spec, 3, kSteps))) << precision << ", stage " << stage;
    }
  }
}

// The same elements are dropped whatever is computed in: curves are as near as without dropout.
TEST(DropoutTest, SixteenBits_DropTheSameElements) {
  const TrainedState full = Train(Spec(), 1, 1);
  proto::TrainSpec spec = Spec();
  spec.set_precision("fp16");
  const double same_masks = Train(spec, 1, 1).losses[0];
  spec = Spec();
  Drop(spec, 0.1 + 1e-3, 0.2);  // some elements more
  const double others = Train(spec, 1, 1).losses[0];
  EXPECT_NEAR(same_masks, full.losses[0], 1e-4);
  EXPECT_NE(same_masks, full.losses[0]);
  EXPECT_NE(others, full.losses[0]);
}

// A sample has its mask, whatever is in a micro-batch with it: only sums are others.
TEST(DropoutTest, AnotherMicroBatchSize_IsRoundingAlone) {
  const double of_two = Train(Spec(), 1, 1).losses[0];
  proto::TrainSpec spec = Spec();
  for (const int64_t size : {1, 3, 6}) {
    spec.set_micro_batch_size(size);
    EXPECT_NEAR(Train(spec, 1, 1).losses[0], of_two, 1e-6) << size;
  }
  spec = Spec();
  spec.set_seed(spec.seed() + 1);
  EXPECT_GT(std::abs(Train(spec, 1, 1).losses[0] - of_two), 1e-4);
}

TEST(DropoutTest, RatesAreTheCurve) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const TrainedState none = Train(spec, 1, kSteps);
  Drop(spec, 0, 0);
  EXPECT_TRUE(none.SameBits(Train(spec, 1, kSteps)));
  std::vector<TrainedState> others = {none};
  for (const auto& [hidden, attention] :
       std::vector<std::pair<double, double>>{{0.1, 0}, {0, 0.1}, {0.1, 0.1}, {0.2, 0.1}}) {
    Drop(spec, hidden, attention);
    others.push_back(Train(spec, 1, kSteps));
    for (size_t i = 0; i + 1 < others.size(); ++i) {
      EXPECT_NE(others[i].losses[0], others.back().losses[0]) << hidden << " " << attention;
    }
  }
}

// Each step drops other elements; a learning rate of 0 leaves only that to change the loss.
TEST(DropoutTest, EveryStepDropsOtherElements) {
  proto::TrainSpec spec = Spec();
  spec.set_lr(0);
  spec.set_min_lr(0);
  // Of one sample, so that every step has the same text.
  const HowTrained how{.adjust = [](Trainer::Setup& setup) {
    setup.sample = [](int64_t, std::span<int32_t> tokens, std::span<int32_t> targets) {
      SampleText(3, tokens, targets);
    };
  }};
  const TrainedState dropped = Train(spec, 1, kSteps, how);
  Drop(spec, 0, 0);
  const TrainedState none = Train(spec, 1, kSteps, how);
  for (int step = 1; step < kSteps; ++step) {
    EXPECT_EQ(none.losses[static_cast<size_t>(step)], none.losses[0]);
    EXPECT_NE(dropped.losses[static_cast<size_t>(step)], dropped.losses[0]);
    // Twelve samples of an untrained model: near, and not the same.
    EXPECT_NEAR(dropped.losses[static_cast<size_t>(step)], none.losses[0], 0.1);
  }
}

TEST(DropoutTest, TheLossFalls) {
  const TrainedState trained = Train(Spec(), 1, 20);
  EXPECT_LT(trained.losses.back(), trained.losses.front() - 0.1);
}

TEST(DropoutTest, FrozenTensors_HaveTheSameBitsInEveryStage) {
  proto::TrainSpec spec = Spec();
  spec.add_frozen("wte.weight");
  spec.add_frozen("h.0.attn.c_proj.weight");
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int stage : {0, 1, 3}) {
    spec.set_zero_stage(stage);
    EXPECT_TRUE(one.SameBits(Train(spec, 3, kSteps))) << stage;
  }
}

TEST(DropoutTest, KilledAndResumedAtAnotherWidth_EndsWithTheSameContent) {
  proto::JobSpec job = Job();
  Drop(*job.mutable_train());
  const std::string undisturbed = UndisturbedHash(job);
  EXPECT_NE(undisturbed, UndisturbedHash());
  FaultyFileSystem fs;
  EXPECT_EQ(InterruptedHash(fs, job), undisturbed);
}

TEST(DropoutTest, OtherRatesThanTheCheckpoints_AreRefusedUnlessAccepted) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  Drop(*job.mutable_train());
  {
    WorkerCluster cluster(job, fs);
    for (const auto& outcome : cluster.Run(1)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  }
  job.mutable_train()->set_load_dir(kFolder);
  job.mutable_train()->set_train_iters(10);
  Drop(*job.mutable_train(), 0, 0.2);
  {
    WorkerCluster cluster(job, fs);
    const auto outcomes = cluster.Run(1);
    ASSERT_FALSE(outcomes[0].ok());
    EXPECT_THAT(std::string(outcomes[0].status().message()),
                testing::HasSubstr("hidden dropout (--hidden-dropout)"));
  }
  job.mutable_train()->set_accept_fingerprint(true);
  WorkerCluster cluster(job, fs);
  for (const auto& outcome : cluster.Run(1)) EXPECT_TRUE(outcome.ok()) << outcome.status();
}

TEST(DropoutTest, RateThatIsNone_IsRefused) {
  for (const double rate : {-0.1, 1.0, 1e300}) {
    proto::TrainSpec spec = TinySpec(1);
    spec.set_attention_dropout(rate);
    OnRanks(spec, 1, [](Trainer::Setup& setup) {
      const auto trainer = Trainer::Create(setup);
      EXPECT_EQ(trainer.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(trainer.status().message()), testing::HasSubstr(kDropoutRateWords));
    });
  }
}

}  // namespace
}  // namespace dsrun::worker
