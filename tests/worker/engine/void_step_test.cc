// Steps whose gradients jump beyond the headroom of their sums: computed again, with the same bits
// in every layout; and what takes precedence over that (docs/numerics.md).

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/plan/optimizer_plan.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/wrappers.h"

namespace dsrun::worker {
namespace {

constexpr int kSteps = 4;
constexpr int64_t kMicroBatches = 6;
constexpr int64_t kJumping = 2 * 2 * kMicroBatches + 7;  // a sample of the third step

// Hands the gradients of every use to `change`, with the sample that the micro-batch begins with;
// `last`: those of the layer that comes last in the pass, the first of the model.
class ChangingModel : public ModelWrapper {
 public:
  using Change = std::function<void(int64_t sample, bool last, std::span<float> gradients)>;
  ChangingModel(Model& inner, Kernels* kernels, Change change)
      : ModelWrapper(inner, kernels), change_(std::move(change)) {}

  int64_t sample = -1;

 protected:
  absl::Status Written(size_t layer, std::span<const std::span<float>> gradients) override {
    for (size_t use = 0; use < gradients.size(); ++use) {
      change_(sample, layer == 0 && use + 1 == gradients.size(), gradients[use]);
    }
    return absl::OkStatus();
  }

 private:
  const Change change_;
};

// Gives every rank of a training such a model. Must outlive it.
class Changes {
 public:
  explicit Changes(ChangingModel::Change change) : change_(std::move(change)) {}

  void Adjust(Trainer::Setup& setup) {
    MutexLock lock(mu_);
    models_.push_back(std::make_unique<ChangingModel>(*setup.model, setup.kernels, change_));
    ChangingModel* const model = models_.back().get();
    setup.model = model;
    setup.sample = [model, first = setup.spec->micro_batch_size()](
                       int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
      if (index % first == 0) model->sample = index;
      SampleText(index, tokens, targets);
    };
  }
  HowTrained How(ReduceRoute route = {}) {
    return {.route = route, .adjust = [this](Trainer::Setup& setup) { Adjust(setup); }};
  }

 private:
  const ChangingModel::Change change_;
  Mutex mu_;
  std::vector<std::unique_ptr<ChangingModel>> models_ ABSL_GUARDED_BY(mu_);
};

void Scale(std::span<float> gradients, float factor) {
  for (float& gradient : gradients) gradient *= factor;
}

bool IsOf(int64_t sample) { return sample == kJumping - 1; }  // its micro-batch begins there

TEST(VoidStepTest, AJumpInOneMicroBatch_IsComputedAgain_WithTheSameBitsAtEveryWidth) {
  proto::TrainSpec spec = TinySpec(kMicroBatches);
  const auto train = [&](int width) {
    Changes changes([](int64_t sample, bool last, std::span<float> gradients) {
      if (IsOf(sample)) Scale(gradients, 0x1p20f);
    });
    return Train(spec, width, kSteps, changes.How());
  };
  const TrainedState one = train(1);
  ASSERT_EQ(one.steps.size(), static_cast<size_t>(kSteps));
  for (int step = 0; step < kSteps; ++step) {
    EXPECT_EQ(one.steps[static_cast<size_t>(step)].voids, step == 2 ? 1 : 0) << step;
  }
  for (const int width : {2, 3, 6}) EXPECT_TRUE(one.SameBits(train(width))) << "width " << width;
  spec.set_zero_stage(0);
  EXPECT_TRUE(one.SameBits(train(4)));
  EXPECT_FALSE(one.SameBits(Train(spec, 1, kSteps)));  // it did jump
}

// The void step has left nothing behind: where the jump goes away at the second computation, only
// the headroom stays larger for a while, which at these sizes loses no bit that a float keeps.
TEST(VoidStepTest, NothingOfAVoidStepCounts) {
  const proto::TrainSpec spec = TinySpec(kMicroBatches);
  std::atomic<int> computed = 0;
  Changes changes([&](int64_t sample, bool last, std::span<float> gradients) {
    if (!IsOf(sample)) return;
    if (last) ++computed;
    if (computed == 0) Scale(gradients, 0x1p20f);
  });
  const TrainedState disturbed = Train(spec, 1, 3, changes.How());
  const TrainedState plain = Train(spec, 1, 3);
  EXPECT_EQ(computed, 2);
  ASSERT_EQ(disturbed.steps.size(), 3u);
  EXPECT_EQ(disturbed.steps[2].voids, 1);
  EXPECT_EQ(disturbed.losses, plain.losses);
  ASSERT_EQ(disturbed.parameters.size(), plain.parameters.size());
  for (size_t i = 0; i < plain.parameters.size(); ++i) {
    ASSERT_NEAR(disturbed.parameters[i], plain.parameters[i], 1e-6) << i;
  }
}

// The second computation drops what the first did: without the jump the losses are those of a run
// that was never disturbed, and with it the bits are one curve's.
TEST(VoidStepTest, TheSecondComputation_DropsTheSameElements) {
  proto::TrainSpec spec = TinySpec(kMicroBatches);
  spec.set_hidden_dropout(0.1);
  spec.set_attention_dropout(0.2);
  const TrainedState plain = Train(spec, 1, 3);
  std::atomic<int> computed = 0;
  Changes once([&](int64_t sample, bool last, std::span<float> gradients) {
    if (!IsOf(sample)) return;
    if (last) ++computed;
    if (computed == 0) Scale(gradients, 0x1p20f);
  });
  const TrainedState disturbed = Train(spec, 1, 3, once.How());
  ASSERT_EQ(disturbed.steps.size(), 3u);
  EXPECT_EQ(disturbed.steps[2].voids, 1);
  EXPECT_EQ(disturbed.losses, plain.losses);
  const auto jumping = [&](int width) {
    Changes changes([](int64_t sample, bool, std::span<float> gradients) {
      if (IsOf(sample)) Scale(gradients, 0x1p20f);
    });
    return Train(spec, width, kSteps, changes.How());
  };
  const TrainedState one = jumping(1);
  EXPECT_EQ(one.steps[2].voids, 1);
  for (const int width : {2, 3}) EXPECT_TRUE(one.SameBits(jumping(width))) << width;
}

// A generation that ends in the middle of the second computation has changed nothing: the next one
// goes on from what was committed, and comes to the same bits.
TEST(VoidStepTest, EndOfAGenerationInTheSecondComputation_ChangesNothing) {
  const proto::TrainSpec spec = TinySpec(kMicroBatches);
  const auto jump = [](int64_t sample, bool last, std::span<float> gradients) {
    if (IsOf(sample)) Scale(gradients, 0x1p20f);
  };
  Changes whole(jump);
  const TrainedState undisturbed = Train(spec, 1, kSteps, whole.How());
  std::vector<float> parameters, adam_m, adam_v;
  GradientExponents::State exponents;
  int passes = 0;  // through the jump
  Changes first([&](int64_t sample, bool last, std::span<float> gradients) {
    jump(sample, last, gradients);
    if (IsOf(sample) && last) ++passes;
  });
  OnRanks(spec, 1, [&](Trainer::Setup& setup) {
    first.Adjust(setup);
    setup.cancelled = [&] { return passes == 2; };
    const std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
    ShardedState& state = trainer->state();
    const int64_t size = trainer->layout().size();
    ASSERT_TRUE(trainer->InitializeParameters(spec.seed()).ok());
    for (int step = 0; step < 2; ++step) ASSERT_TRUE(trainer->TrainStep(false).ok());
    ASSERT_TRUE(trainer->Settle().ok());
    exponents = trainer->exponents().state();
    EXPECT_EQ(trainer->TrainStep(false).status().code(), absl::StatusCode::kAborted);
    EXPECT_EQ(state.step, 2);
    const std::vector<HostAccess> access = trainer->OpenState().value();
    parameters.assign(state.parameters, state.parameters + size);
    adam_m.assign(state.slots[adamw_optimizer::kExpAvg],
                  state.slots[adamw_optimizer::kExpAvg] + size);
    adam_v.assign(state.slots[adamw_optimizer::kExpAvgSq],
                  state.slots[adamw_optimizer::kExpAvgSq] + size);
  });
  Changes second(jump);
  OnRanks(spec, 1, [&](Trainer::Setup& setup) {
    second.Adjust(setup);
    const std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
    ShardedState& state = trainer->state();
    {
      const std::vector<HostAccess> access = trainer->OpenState().value();
      std::ranges::copy(parameters, state.parameters);
      std::ranges::copy(adam_m, state.slots[adamw_optimizer::kExpAvg]);
      std::ranges::copy(adam_v, state.slots[adamw_optimizer::kExpAvgSq]);
    }
    state.step = 2;
    state.samples = 2 * spec.global_batch_size();
    trainer->exponents().Restore(exponents);
    for (int step = 2; step < kSteps; ++step) ASSERT_TRUE(trainer->TrainStep(false).ok());
    ASSERT_TRUE(trainer->Settle().ok());
    const std::vector<HostAccess> access = trainer->OpenState().value();
    const std::vector<float> end(state.parameters, state.parameters + trainer->layout().size());
    EXPECT_EQ(end, undisturbed.parameters);
    EXPECT_EQ(trainer->exponents().state(), undisturbed.exponents);
  });
}

// All gradients so small that the guess of a first step leaves their sums without bits.
TEST(VoidStepTest, TinyGradientsAtTheFirstStep_AreComputedAgain) {
  const proto::TrainSpec spec = TinySpec(kMicroBatches);
  const auto train = [&](int width) {
    Changes changes([](int64_t, bool, std::span<float> gradients) { Scale(gradients, 0x1p-40f); });
    return Train(spec, width, 2, changes.How());
  };
  const TrainedState one = train(1);
  ASSERT_EQ(one.steps.size(), 2u);
  EXPECT_EQ(one.steps[0].voids, 1);
  EXPECT_EQ(one.steps[1].voids, 0);
  EXPECT_TRUE(one.SameBits(train(3)));
}

// Runs steps until one fails, on every rank; what they say, and whether anything of it counted.
void ExpectEnd(const proto::TrainSpec& spec, int width, Changes& changes, int64_t counted,
               absl::StatusCode code, const std::string& says) {
  OnRanks(spec, width, [&](Trainer::Setup& setup) {
    changes.Adjust(setup);
    const std::unique_ptr<Trainer> trainer = Trainer::Create(setup).value();
    ASSERT_TRUE(trainer->InitializeParameters(spec.seed()).ok());
    absl::StatusOr<StepResult> step = trainer->TrainStep(/*stop_requested=*/false);
    while (step.ok() && step->step < kSteps) step = trainer->TrainStep(/*stop_requested=*/false);
    EXPECT_EQ(step.status().code(), code) << step.status();
    EXPECT_NE(step.status().message().find(says), std::string::npos) << step.status();
    EXPECT_EQ(trainer->state().step, counted);
  });
}

TEST(VoidStepTest, AGradientThatIsNotFinite_TakesPrecedenceOverAJump) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Changes changes([bad](int64_t sample, bool last, std::span<float> gradients) {
      if (sample < kJumping - 1) return;
      Scale(gradients, 0x1p20f);
      if (IsOf(sample)) gradients.front() = bad;
    });
    ExpectEnd(TinySpec(kMicroBatches), 3, changes, 2, absl::StatusCode::kOutOfRange,
              "from the loss back, is of head (ln_f.weight)");
  }
}

// Larger at every computation: the second one had other bits than the first.
TEST(VoidStepTest, VoidTwice_IsToldAsWhatItIs) {
  std::atomic<float> factor = 0x1p20f;
  Changes changes([&](int64_t sample, bool last, std::span<float> gradients) {
    if (!IsOf(sample)) return;
    Scale(gradients, factor);
    if (last) factor = factor * 0x1p20f;
  });
  ExpectEnd(TinySpec(kMicroBatches), 3, changes, 2, absl::StatusCode::kInternal,
            "look for failing hardware");
}

}  // namespace
}  // namespace dsrun::worker
