// Training in bf16 and fp16: the same bits in every layout, curves near that of fp32, the loss
// scale.

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/numerics/loss_scaler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/support/short_lists.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"

namespace dsrun::worker {
namespace {

constexpr const char* kHalves[] = {"bf16", "fp16"};

proto::TrainSpec Spec(const std::string& precision, int64_t micro_batches = 3) {
  proto::TrainSpec spec = TinySpec(micro_batches);
  spec.set_precision(precision);
  return spec;
}

void UseLlama(proto::TrainSpec& spec) {
  ModelSpec llama = *FindPreset("llama-nano");
  llama.num_layers = 2;
  llama.seq_length = 24;
  ToProto(llama, spec.mutable_model());
}

TEST(PrecisionTest, CurvesAreNearThatOfFp32_AndAreOthers) {
  const TrainedState full = Train(Spec("fp32"), 1, 20);
  EXPECT_TRUE(full.SameBits(Train(Spec(""), 1, 20)));
  for (const auto& [precision, tolerance] :
       std::vector<std::pair<std::string, double>>{{"bf16", 0.02}, {"fp16", 0.004}}) {
    SCOPED_TRACE(precision);
    const TrainedState half = Train(Spec(precision), 1, 20);
    EXPECT_LT(half.losses.back(), half.losses.front() - 0.1);
    EXPECT_NE(half.losses, full.losses);
    for (size_t step = 0; step < half.losses.size(); ++step) {
      EXPECT_NEAR(half.losses[step], full.losses[step], tolerance) << "step " << step;
      EXPECT_NEAR(half.grad_norms[step], full.grad_norms[step], 0.1 * full.grad_norms[step]);
    }
    EXPECT_EQ(half.steps.back().loss_scale, precision == "fp16" ? 65536 : 0);
  }
}

TEST(PrecisionTest, EveryLayoutHasTheSameBits) {
  for (const bool llama : {false, true}) {
    for (const char* const precision : kHalves) {
      SCOPED_TRACE(std::string(precision) + (llama ? ", llama" : ", gpt2"));
      proto::TrainSpec plain = Spec(precision);
      if (llama) UseLlama(plain);
      const TrainedState one = Train(plain, 1, 4);
      const auto expect_same = [&](const std::string& what, int width,
                                   const std::function<void(proto::TrainSpec&)>& change) {
        proto::TrainSpec spec = plain;
        change(spec);
        EXPECT_TRUE(one.SameBits(Train(spec, width, 4))) << what << ", width " << width;
      };
      for (const int width : AllOrLast({2, 3})) {
        expect_same("stage 1", width, [](proto::TrainSpec&) {});
        expect_same("stage 0", width, [](proto::TrainSpec& spec) { spec.set_zero_stage(0); });
        expect_same("stage 3", width, [](proto::TrainSpec& spec) { spec.set_zero_stage(3); });
      }
      expect_same("two threads", 2, [](proto::TrainSpec& spec) { spec.set_threads_per_rank(2); });
      expect_same("no overlap", 2, [](proto::TrainSpec& spec) { spec.set_overlap_comm(false); });
      expect_same("small buckets", 2, [](proto::TrainSpec& spec) { spec.set_bucket_bytes(4096); });
      expect_same("recomputed", 2,
                  [](proto::TrainSpec& spec) { spec.mutable_recompute()->set_every(1); });
    }
  }
}

TEST(PrecisionTest, Frozen_HasTheSameBitsInEveryStage) {
  for (const char* const precision : kHalves) {
    proto::TrainSpec spec = Spec(precision);
    spec.add_frozen("wte.weight");
    spec.add_frozen("h.0.attn.c_attn.weight");
    const TrainedState one = Train(spec, 1, 4);
    for (const int stage : {0, 1, 3}) {
      spec.set_zero_stage(stage);
      EXPECT_TRUE(one.SameBits(Train(spec, 3, 4))) << precision << ", stage " << stage;
    }
  }
}

TEST(PrecisionTest, FastSums_AreNearTheExactOnes) {
  proto::TrainSpec spec = Spec("fp16");
  const TrainedState exact = Train(spec, 2, 6);
  spec.set_sums("fast");
  const TrainedState fast = Train(spec, 2, 6);
  for (size_t step = 0; step < fast.losses.size(); ++step) {
    EXPECT_NEAR(fast.losses[step], exact.losses[step], 1e-3);
    EXPECT_NEAR(fast.grad_norms[step], exact.grad_norms[step], 1e-3 * exact.grad_norms[step]);
  }
}

// The scale is so large at first that gradients overflow; what a skipped step must leave alone it
// leaves alone, at every width, and the scale moves as the scaler says.
TEST(PrecisionTest, Overflows_AreSkippedAlikeInEveryLayout) {
  proto::TrainSpec spec = Spec("fp16");
  spec.mutable_loss_scale()->set_initial_power(30);
  spec.mutable_loss_scale()->set_window(3);
  constexpr int kSteps = 24;
  const TrainedState one = Train(spec, 1, kSteps);
  LossScaler scaler({.initial_power = 30, .window = 3});
  int skipped = 0, doubled = 0;
  for (const StepResult& step : one.steps) {
    const double before = scaler.scale();
    ASSERT_TRUE(scaler.Update(step.skipped).ok());
    EXPECT_EQ(step.loss_scale, scaler.scale()) << "step " << step.step;
    EXPECT_EQ(step.note.empty(), !step.skipped);
    skipped += step.skipped;
    doubled += step.loss_scale > before;
    EXPECT_TRUE(std::isfinite(step.loss)) << "the loss does not know the scale";
  }
  EXPECT_TRUE(one.steps[0].skipped && one.steps[1].skipped);
  EXPECT_GE(skipped, 4);
  EXPECT_GE(doubled, 1);
  EXPECT_LT(skipped, kSteps - 4);
  EXPECT_FALSE(one.steps.back().lr == one.steps.front().lr);
  for (const int stage : {0, 1, 3}) {
    spec.set_zero_stage(stage);
    const TrainedState three = Train(spec, 3, kSteps);
    EXPECT_TRUE(one.SameBits(three)) << "stage " << stage;
    for (int step = 0; step < kSteps; ++step) {
      const auto at = static_cast<size_t>(step);
      EXPECT_EQ(three.steps[at].skipped, one.steps[at].skipped);
      EXPECT_EQ(three.steps[at].note, one.steps[at].note);
      EXPECT_EQ(three.steps[at].lr, one.steps[at].lr);
    }
  }
}

TEST(PrecisionTest, SkippedSteps_CountNeitherForTheScheduleNorForTheOptimizer) {
  proto::TrainSpec spec = Spec("fp16");
  spec.set_lr_warmup_iters(8);
  spec.mutable_loss_scale()->set_initial_power(30);
  const TrainedState skipping = Train(spec, 1, 20);
  int64_t counted = 0;
  std::vector<double> rates;
  for (const StepResult& step : skipping.steps) {
    if (!step.skipped) rates.push_back(step.lr);
    counted += !step.skipped;
  }
  ASSERT_LT(counted, 20);
  proto::TrainSpec quiet = spec;
  quiet.clear_loss_scale();
  const TrainedState undisturbed = Train(quiet, 1, static_cast<int>(counted));
  for (size_t step = 0; step < rates.size(); ++step) {
    EXPECT_EQ(rates[step], undisturbed.steps[step].lr) << step;
  }
}

TEST(PrecisionTest, ScaleThatCannotFall_EndsTheRunWithTheLayer) {
  proto::TrainSpec spec = Spec("fp16");
  spec.mutable_loss_scale()->set_initial_power(60);
  spec.mutable_loss_scale()->set_min(0x1p60);
  spec.mutable_loss_scale()->set_hysteresis(1);
  OnRanks(spec, 2, [&](Trainer::Setup& setup) {
    const auto trainer = Trainer::Create(setup);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    ASSERT_TRUE((*trainer)->InitializeParameters(1).ok());
    const auto step = (*trainer)->TrainStep(false);
    EXPECT_EQ(step.status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(step.status().message()), testing::HasSubstr("at its least, 2^60"));
    EXPECT_THAT(std::string(step.status().message()), testing::HasSubstr("from the loss back"));
  });
}

// A weight that is no number: forward finds the layer that it is in, on all ranks.
TEST(PrecisionTest, LossThatIsNoNumber_NamesTheFirstLayer) {
  for (const int stage : {0, 1, 3}) {
    for (const char* const precision : {"fp32", "bf16"}) {
      SCOPED_TRACE(std::string(precision) + ", stage " + std::to_string(stage));
      proto::TrainSpec spec = Spec(precision);
      spec.set_zero_stage(stage);
      OnRanks(spec, 2, [&](Trainer::Setup& setup) {
        const auto trainer = Trainer::Create(setup);
        ASSERT_TRUE(trainer.ok()) << trainer.status();
        ASSERT_TRUE((*trainer)->InitializeParameters(1).ok());
        ASSERT_TRUE((*trainer)->Settle().ok());
        ShardedState& state = (*trainer)->state();
        auto access = (*trainer)->OpenState();
        ASSERT_TRUE(access.ok()) << access.status();
        for (const FlatLayout::Entry& entry : (*trainer)->layout().entries()) {
          if (entry.tensor.name != "h.1.mlp.c_fc.bias") continue;
          int64_t at = 0;
          for (const Range& range : (*trainer)->stored()) {
            const bool mine = range.begin <= entry.offset && entry.offset < range.end;
            if (mine || !state.partitioned) {
              const int64_t place =
                  state.partitioned ? at + entry.offset - range.begin : entry.offset;
              state.parameters[place] = std::numeric_limits<float>::quiet_NaN();
            }
            at += range.size();
          }
        }
        access->clear();
        (*trainer)->ParametersChanged();
        const auto step = (*trainer)->TrainStep(false);
        EXPECT_EQ(step.status().code(), absl::StatusCode::kOutOfRange) << step.status();
        EXPECT_THAT(std::string(step.status().message()),
                    testing::HasSubstr("the first layer whose output is not finite is h.1.mlp"));
      });
    }
  }
}

std::string HashOf(const proto::JobSpec& job, FaultyFileSystem& fs) {
  return NewestHash(fs, job.job_id());
}

// Checkpoints of every precision have one hash through restarts at another width and stage, the
// loss scale in the middle of its window included.
TEST(PrecisionTest, Checkpoints_HaveOneHashThroughARestartAtAnotherWidthAndStage) {
  for (const char* const precision : kHalves) {
    SCOPED_TRACE(precision);
    proto::JobSpec job = Job();
    job.mutable_train()->set_precision(precision);
    if (std::string(precision) == "fp16") {
      job.mutable_train()->mutable_loss_scale()->set_initial_power(28);
      job.mutable_train()->mutable_loss_scale()->set_window(2);
    }
    const std::string undisturbed = UndisturbedHash(job);
    for (const int stage : {0, 1, 3}) {
      FaultyFileSystem fs;
      proto::JobSpec first = job;
      first.mutable_train()->set_zero_stage(stage);
      {
        WorkerCluster cluster(first, fs);
        cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
          if (message.has_step_done() && message.step_done().step() == 4) cluster.RequestStop();
        };
        for (const auto& outcome : cluster.Run(2)) {
          ASSERT_TRUE(outcome.ok()) << outcome.status();
          ASSERT_LT(outcome->step(), 8);
        }
      }
      proto::JobSpec second = job;
      second.mutable_train()->set_zero_stage(stage == 3 ? 1 : 3);
      WorkerCluster cluster(second, fs);
      for (const auto& outcome : cluster.Run(3)) ASSERT_TRUE(outcome.ok()) << outcome.status();
      EXPECT_EQ(HashOf(second, fs), undisturbed) << "stage " << stage;
    }
  }
}

}  // namespace
}  // namespace dsrun::worker
