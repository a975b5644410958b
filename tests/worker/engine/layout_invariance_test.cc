// One loss curve, whatever the layout: the promise of docs/numerics.md, bit for bit.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/numerics/fingerprint.h"
#include "common/plan/recompute_plan.h"
#include "gtest/gtest.h"
#include "tests/support/short_lists.h"
#include "tests/worker/engine/training_ranks.h"

namespace dsrun::worker {
namespace {

constexpr int kSteps = 4;
constexpr unsigned kSeed = 20261127;

// Any atom on any rank, in any order, as many as there are; every rank has one.
std::vector<std::vector<int64_t>> RandomAtoms(int64_t atoms, int width, std::mt19937& random) {
  std::vector<int64_t> all(static_cast<size_t>(atoms));
  std::iota(all.begin(), all.end(), int64_t{0});
  std::shuffle(all.begin(), all.end(), random);
  std::vector<std::vector<int64_t>> by_rank(static_cast<size_t>(width));
  for (size_t i = 0; i < all.size(); ++i) {
    const size_t rank = i < by_rank.size() ? i : random() % by_rank.size();
    by_rank[rank].push_back(all[i]);
  }
  return by_rank;
}

TEST(LayoutInvarianceTest, TwelveMicroBatchesOnEveryWidth) {
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/12);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int width : {2, 3, 4, 5, 6, 7, 12}) {  // 5 and 7: uneven
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps))) << "width " << width;
  }
}

TEST(LayoutInvarianceTest, AnyMicroBatchOnAnyRank_ByAnyRoute) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/12);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const ReduceRoute route :
       {ReduceRoute{ReduceWay::kDirect}, ReduceRoute{ReduceWay::kRing},
        ReduceRoute{ReduceWay::kTree}, ReduceRoute{ReduceWay::kTwoLevel, 2},
        ReduceRoute{ReduceWay::kTwoLevel, 3}}) {
    for (const int width : {2, 5}) {
      const TrainedState other =
          Train(spec, width, kSteps, {.route = route, .atoms = RandomAtoms(12, width, random)});
      EXPECT_TRUE(one.SameBits(other))
          << "way " << static_cast<int>(route.way) << " width " << width;
    }
  }
}

// Of the other family: rotated, in groups, gated. Twenty steps of its smallest preset.
TEST(LayoutInvarianceTest, TwentyStepsOfLlamaNano_AtEveryWidthAndThreadCount) {
  if (ListsAreShort()) GTEST_SKIP() << "minutes, of arithmetic; threads are those of the others";
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  ToProto(FindPreset("llama-nano").value(), spec.mutable_model());
  spec.mutable_model()->set_seq_length(32);
  spec.set_micro_batch_size(1);
  spec.set_global_batch_size(6);
  spec.set_train_iters(20);
  const TrainedState one = Train(spec, 1, 20);
  EXPECT_LT(one.losses.back(), one.losses.front() - 1);
  for (const int width : {1, 2, 3}) {
    for (const int threads : {1, 2}) {
      spec.set_threads_per_rank(threads);
      if (width == 1 && threads == 1) continue;
      EXPECT_TRUE(one.SameBits(Train(spec, width, 20)))
          << "width " << width << ", " << threads << " threads";
    }
  }
}

// What backward plays forward again has the bits that it had: losses, gradients and parameters, of
// both families, at any width and thread count, with frozen tensors below and inside a segment.
TEST(LayoutInvarianceTest, RecomputedLayers_OfBothFamilies) {
  for (const char* preset : {"gpt2-nano", "llama-nano"}) {
    proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
    ModelSpec model = FindPreset(preset).value();
    model.num_layers = 3;
    model.seq_length = 32;
    ToProto(model, spec.mutable_model());
    spec.set_micro_batch_size(1);
    spec.set_global_batch_size(4);
    for (const bool frozen : {false, true}) {
      spec.clear_frozen();
      if (frozen) {
        for (const LogicalTensor& tensor : LogicalTensors(model)) {
          const bool in_second = tensor.name.find(".1.mlp") != std::string::npos;
          const bool later = tensor.name.find(".2.") != std::string::npos;
          if (!in_second && !later) spec.add_frozen(tensor.name);
        }
      }
      spec.clear_recompute();
      spec.set_threads_per_rank(1);
      const TrainedState plain = Train(spec, 1, kSteps);
      for (const int every : {0, 1, 2}) {
        spec.mutable_recompute()->set_every(every);
        const int64_t rows = model.seq_length;
        spec.mutable_recompute()->set_budget_bytes(
            every > 0 ? 0 : KeptBytes(PlanModel(model), rows, 1, {}) * 2 / 3);
        spec.set_threads_per_rank(1 + every);
        for (const int stage : AllOrLast({1, 2, 3})) {  // 3: gathered for the second forward, too
          spec.set_zero_stage(stage);
          EXPECT_TRUE(plain.SameBits(Train(spec, 1 + every, kSteps)))
              << preset << ", every " << every << ", stage " << stage << (frozen ? ", frozen" : "");
        }
        spec.clear_zero_stage();
      }
    }
  }
}

// A rank with one atom holds no sums, and sends floats where it can; ranks beside it have several.
// What is on its way is bounded: with buckets of a leaf backward waits for most of them, with one
// bucket for none.
TEST(LayoutInvarianceTest, RanksWithOneAtom_ByAnyRouteBucketAndOverlap) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int64_t bucket_bytes : {1, 10'000, 64 << 10, 1 << 30}) {
    spec.set_bucket_bytes(bucket_bytes);
    for (const bool overlap : {true, false}) {
      spec.set_overlap_comm(overlap);
      EXPECT_TRUE(one.SameBits(Train(spec, 6, kSteps)))
          << "bucket_bytes " << bucket_bytes << " overlap " << overlap;
    }
  }
  spec.set_overlap_comm(true);
  spec.set_bucket_bytes(10'000);
  for (const ReduceRoute route :
       {ReduceRoute{ReduceWay::kDirect}, ReduceRoute{ReduceWay::kRing},
        ReduceRoute{ReduceWay::kTree}, ReduceRoute{ReduceWay::kTwoLevel, 2},
        ReduceRoute{ReduceWay::kTwoLevel, 3}}) {
    for (const int width : {4, 5, 6}) {  // 2, 2, 1, 1; 2, 1, ...; 1, ...
      const auto where = [&] {
        return "way " + std::to_string(static_cast<int>(route.way)) + " width " +
               std::to_string(width);
      };
      EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps, {.route = route}))) << where();
      const HowTrained how{.route = route, .atoms = RandomAtoms(6, width, random)};
      EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps, how))) << where() << ", atoms by chance";
    }
  }
}

// One micro-batch on one rank: nothing is added, nothing travels, and it is rounded all the same.
TEST(LayoutInvarianceTest, OneMicroBatch_IsItsOwnSum) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/1);
  const TrainedState one = Train(spec, 1, kSteps);
  spec.set_bucket_bytes(5'000);
  EXPECT_TRUE(one.SameBits(Train(spec, 1, kSteps)));
}

// Atoms are summed in fp32, so their size makes another curve; where they stand does not.
TEST(LayoutInvarianceTest, AtomsOfSeveralMicroBatches) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/7);
  spec.set_micro_batches_per_atom(3);  // 3, 3, 1
  const TrainedState one = Train(spec, 1, kSteps);
  for (const int width : {2, 3}) {
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps))) << "width " << width;
    EXPECT_TRUE(one.SameBits(Train(spec, width, kSteps, {.atoms = RandomAtoms(3, width, random)})))
        << "width " << width;
  }
  spec.set_micro_batches_per_atom(1);
  EXPECT_FALSE(one.SameBits(Train(spec, 1, kSteps)));
}

TEST(LayoutInvarianceTest, ThreadsBucketsAndOverlapChangeNoBit) {
  proto::TrainSpec spec = TinySpec(4);
  const TrainedState reference = Train(spec, 2, kSteps);
  spec.set_threads_per_rank(2);
  EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "threads";
  for (const int64_t bucket_bytes : {1, 10000, 1 << 30}) {
    spec.set_bucket_bytes(bucket_bytes);
    EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "bucket_bytes " << bucket_bytes;
  }
  spec.set_overlap_comm(false);
  EXPECT_TRUE(reference.SameBits(Train(spec, 2, kSteps))) << "overlap";
}

// Fast sums learn the same, at every width with other bits: that is what exact ones are for.
TEST(LayoutInvarianceTest, FastSums_AreCloseAndNotEqual) {
  proto::TrainSpec spec = TinySpec(12);
  const TrainedState exact = Train(spec, 1, kSteps);
  spec.set_sums(std::string(kSumsFastFlag));
  const TrainedState one = Train(spec, 1, kSteps);
  const TrainedState three = Train(spec, 3, kSteps);
  EXPECT_FALSE(one.SameBits(exact));
  EXPECT_FALSE(one.SameBits(three));
  for (size_t i = 0; i < exact.losses.size(); ++i) {
    EXPECT_NEAR(one.losses[i], exact.losses[i], 1e-5);
    EXPECT_NEAR(three.losses[i], exact.losses[i], 1e-5);
  }
}

TEST(LayoutInvarianceTest, AnotherSeedOrBatchIsAnotherCurve) {  // the comparison can fail
  proto::TrainSpec spec = TinySpec(4);
  const TrainedState reference = Train(spec, 1, kSteps);
  spec = TinySpec(5);
  EXPECT_FALSE(reference.SameBits(Train(spec, 1, kSteps)));
  spec = TinySpec(4);
  spec.set_seed(1235);
  EXPECT_FALSE(reference.SameBits(Train(spec, 1, kSteps)));
}

TEST(LayoutInvarianceTest, TheLossFalls_AndNoStepIsVoid) {
  const TrainedState state = Train(TinySpec(4), 2, 10);
  EXPECT_NEAR(state.losses.front(), 5.545, 0.1);  // ln 256: it knows nothing yet
  EXPECT_LT(state.losses.back(), state.losses.front() - 0.5);
  for (const StepResult& step : state.steps) EXPECT_EQ(step.voids, 0) << "step " << step.step;
}

}  // namespace
}  // namespace dsrun::worker
