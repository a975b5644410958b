// Stages whose owners alone hold the sums over the batch: a round of reductions for each atom, and
// the bits of ranks that hold sums themselves (docs/design/0020-zero-stages.md).

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "common/base/mutex.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/wrappers.h"

namespace dsrun::worker {
namespace {

constexpr int kSteps = 3;
constexpr unsigned kSeed = 20261128;

class OwnersSumsTest : public ::testing::TestWithParam<int> {
 protected:
  // Of the stage that is tested.
  static proto::TrainSpec Of(proto::TrainSpec spec) {
    spec.set_zero_stage(GetParam());
    return spec;
  }
};

INSTANTIATE_TEST_SUITE_P(Stages, OwnersSumsTest, ::testing::Values(2, 3),
                         [](const auto& info) { return "Stage" + std::to_string(info.param); });

// 4: ranks of two atoms beside ranks of one; 6: one atom each, so one round.
TEST_P(OwnersSumsTest, EveryWidthBucketAndOverlap_HasTheBitsOfStage1) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const TrainedState plain = Train(spec, 1, kSteps);
  for (const int width : {1, 2, 3, 4, 6}) {
    for (const int64_t bucket_bytes : {1, 10'000, 64 << 10, 1 << 30}) {
      if (bucket_bytes == 1 && width != 4) continue;  // one leaf each: slow
      for (const bool overlap : {true, false}) {
        spec.set_bucket_bytes(bucket_bytes);
        spec.set_overlap_comm(overlap);
        EXPECT_TRUE(plain.SameBits(Train(Of(spec), width, kSteps)))
            << width << " ranks, buckets of " << bucket_bytes << ", overlap " << overlap;
      }
    }
  }
}

// Any atom on any rank, in any order; every rank has one.
std::vector<std::vector<int64_t>> RandomAtoms(int64_t atoms, int width, std::mt19937& random) {
  std::vector<int64_t> all(static_cast<size_t>(atoms));
  std::iota(all.begin(), all.end(), int64_t{0});
  std::shuffle(all.begin(), all.end(), random);
  std::vector<std::vector<int64_t>> by_rank(static_cast<size_t>(width));
  for (size_t i = 0; i < all.size(); ++i) {
    by_rank[i < by_rank.size() ? i : random() % by_rank.size()].push_back(all[i]);
  }
  return by_rank;
}

TEST_P(OwnersSumsTest, AnyAssignmentByAnyRoute_HasTheBitsOfStage1) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/7);
  spec.set_bucket_bytes(20'000);
  const TrainedState plain = Train(spec, 1, kSteps);
  for (const ReduceRoute route :
       {ReduceRoute{ReduceWay::kDirect}, ReduceRoute{ReduceWay::kRing},
        ReduceRoute{ReduceWay::kTree}, ReduceRoute{ReduceWay::kTwoLevel, 2},
        ReduceRoute{ReduceWay::kTwoLevel, 3}}) {
    for (const int width : {2, 3, 5}) {
      const HowTrained how{.route = route, .atoms = RandomAtoms(7, width, random)};
      EXPECT_TRUE(plain.SameBits(Train(Of(spec), width, kSteps, how)))
          << "way " << static_cast<int>(route.way) << ", " << width << " ranks";
    }
  }
}

// Atoms of 3, 3 and 1 micro-batches; the short one first, last, and alone in its round.
TEST_P(OwnersSumsTest, AtomsOfSeveralMicroBatches_HaveTheBitsOfStage1) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/7);
  spec.set_micro_batches_per_atom(3);
  const TrainedState plain = Train(spec, 1, kSteps);
  using Atoms = std::vector<std::vector<int64_t>>;
  for (const Atoms& atoms : {Atoms{{0, 1, 2}}, Atoms{{0, 1}, {2}}, Atoms{{2, 1}, {0}},
                             Atoms{{1}, {0, 2}}, Atoms{{2}, {0}, {1}}}) {
    for (const bool overlap : {true, false}) {
      spec.set_overlap_comm(overlap);
      EXPECT_TRUE(
          plain.SameBits(Train(Of(spec), static_cast<int>(atoms.size()), kSteps, {.atoms = atoms})))
          << atoms.size() << " ranks, first atom " << atoms[0][0] << ", overlap " << overlap;
    }
  }
}

TEST_P(OwnersSumsTest, LlamaTiedAndUntied_HasTheBitsOfStage1) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  ModelSpec model = FindPreset("llama-nano").value();
  model.num_layers = 2;
  model.hidden_size = 32;
  model.num_attention_heads = 4;
  model.query_groups = 2;
  model.ffn_hidden_size = 48;
  model.seq_length = 16;
  spec.set_bucket_bytes(16 << 10);
  for (const bool untied : {false, true}) {
    model.untied_output = untied;
    ToProto(model, spec.mutable_model());
    const TrainedState plain = Train(spec, 1, kSteps);
    for (const int width : {2, 3, 4}) {
      EXPECT_TRUE(plain.SameBits(Train(Of(spec), width, kSteps)))
          << width << " ranks, untied " << untied;
    }
  }
}

// The lower block with its tables, a tied table alone, and all but the table.
TEST_P(OwnersSumsTest, FrozenTensors_HaveTheBitsOfStage1) {
  for (const std::string what : {"lower", "table", "all but the table"}) {
    proto::TrainSpec spec = TinySpec(/*micro_batches=*/5);
    for (const LogicalTensor& tensor : LogicalTensors(FromProto(spec.model()))) {
      const bool table = tensor.name == "wte.weight";
      const bool low = tensor.name.starts_with("h.0.") || tensor.name.starts_with("wpe.");
      const bool frozen = what == "lower" ? table || low : table == (what == "table");
      if (frozen) spec.add_frozen(tensor.name);
    }
    const TrainedState plain = Train(spec, 1, kSteps);
    for (const int width : {1, 2, 3, 5}) {
      EXPECT_TRUE(plain.SameBits(Train(Of(spec), width, kSteps))) << what << ", width " << width;
    }
  }
}

// The gradients of one micro-batch jump beyond the headroom: what its round and those before it
// brought does not count, and the step's rounds are played again.
TEST_P(OwnersSumsTest, VoidStep_HasTheBitsOfStage1) {
  class Jumping : public ModelWrapper {
   public:
    using ModelWrapper::ModelWrapper;
    std::atomic<int64_t> sample{-1};

   protected:
    absl::Status Written(size_t, std::span<const std::span<float>> gradients) override {
      if (sample != 22) return absl::OkStatus();
      for (const std::span<float> of : gradients) {
        for (float& gradient : of) gradient *= 0x1p20f;
      }
      return absl::OkStatus();
    }
  };
  const proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const auto train = [&](const proto::TrainSpec& of, int width) {
    Mutex mu;
    std::vector<std::unique_ptr<Jumping>> models;
    HowTrained how;
    how.adjust = [&](Trainer::Setup& setup) {
      auto owned = std::make_unique<Jumping>(*setup.model, setup.kernels);
      Jumping* const model = owned.get();
      setup.model = model;
      setup.sample = [model](int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
        if (index % 2 == 0) model->sample = index;
        SampleText(index, tokens, targets);
      };
      MutexLock lock(mu);
      models.push_back(std::move(owned));
    };
    return Train(of, width, kSteps, how);
  };
  const TrainedState plain = train(spec, 1);
  ASSERT_EQ(plain.steps.size(), static_cast<size_t>(kSteps));
  EXPECT_EQ(plain.steps[1].voids, 1);
  for (const int width : {1, 2, 4}) {
    EXPECT_TRUE(plain.SameBits(train(Of(spec), width))) << "width " << width;
  }
}

// Fast sums have bits of their own in every layout. One rank adds in the order in which stage 1
// does; ranks of one atom each do, too, where no tensor has two contributions of an atom.
TEST_P(OwnersSumsTest, FastSums_HaveTheBitsOfStage1WhereTheOrderIsTheSame) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  spec.set_sums("fast");
  EXPECT_TRUE(Train(spec, 1, kSteps).SameBits(Train(Of(spec), 1, kSteps)));
  ModelSpec model = FindPreset("llama-nano").value();
  model.num_layers = 1;
  model.seq_length = 16;
  model.untied_output = true;
  ToProto(model, spec.mutable_model());
  EXPECT_TRUE(Train(spec, 4, kSteps).SameBits(Train(Of(spec), 4, kSteps)));
}

TEST_P(OwnersSumsTest, FastSums_AreCloseAtEveryWidthAndTheSameTwice) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/6);
  const TrainedState exact = Train(spec, 1, kSteps);
  spec.set_sums("fast");
  for (const ReduceRoute route : {ReduceRoute{ReduceWay::kDirect}, ReduceRoute{ReduceWay::kRing},
                                  ReduceRoute{ReduceWay::kTree}}) {
    for (const int width : {2, 4}) {
      spec.set_overlap_comm(true);
      const TrainedState fast = Train(Of(spec), width, kSteps, {.route = route});
      ASSERT_EQ(fast.losses.size(), exact.losses.size());
      for (size_t i = 0; i < exact.losses.size(); ++i) {
        EXPECT_NEAR(fast.losses[i], exact.losses[i], 1e-5);
        EXPECT_NEAR(fast.grad_norms[i], exact.grad_norms[i], 1e-4);
      }
      spec.set_overlap_comm(false);
      EXPECT_TRUE(fast.SameBits(Train(Of(spec), width, kSteps, {.route = route})));
    }
  }
}

// By the plan, which is what ranks allocate (planned_memory_test.cc).
TEST_P(OwnersSumsTest, SumsAndSlots_ShrinkWithTheWidth) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/8);
  spec.mutable_model()->set_num_layers(12);
  spec.mutable_model()->set_hidden_size(256);
  spec.set_bucket_bytes(1 << 20);
  const auto sums = [&](const proto::TrainSpec& of, int64_t width) {
    MemoryInput input = MemoryInputFromProto(of);
    input.width = width;
    int64_t bytes = 0;
    for (const PlannedBuffer& line : PlanMemory(input).buffers) {
      if (line.name == "gradient_sums" || line.name == "gradient_slots") bytes += line.bytes();
    }
    return bytes;
  };
  for (const int64_t width : {2, 4}) {  // rounds of 4 and of 2
    EXPECT_LT(sums(Of(spec), width), sums(spec, width) * 6 / (5 * width)) << width;
  }
  // One atom each: stage 1 holds the tied table's sums on every rank.
  EXPECT_LT(sums(Of(spec), 8), sums(spec, 8));
}

}  // namespace
}  // namespace dsrun::worker
