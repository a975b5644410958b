#include "worker/model/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/model/presets.h"
#include "common/numerics/dropout.h"
#include "common/plan/gradient_space.h"
#include "common/plan/recompute_plan.h"
#include "common/plan/shard_plan.h"
#include "tests/worker/model/reference_gpt2.h"
#include "worker/device/cpu/cpu_device.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/random_normal.h"
#include "worker/model/init.h"
#include "worker/parallel/replicated_parameters.h"

namespace dsrun::worker {
namespace {

ModelSpec Tiny() { return {"tiny", 2, 32, 4, 12, 259}; }

// Keeps every gradient, each at the place of its use, and what it was when it was told.
class AllGradients : public GradientSink {
 public:
  AllGradients(const ModelPlan& plan, const FlatLayout& layout)
      : layout_(layout),
        space_(plan, layout),
        values(static_cast<size_t>(space_.size()), std::numeric_limits<float>::quiet_NaN()) {}

  std::span<float* const> Begin(size_t layer) override {
    pointers_.clear();
    for (const GradientSpace::Place& use : space_.uses(layer)) {
      pointers_.push_back(values.data() + space_.window_begin(layer) + use.offset);
    }
    return pointers_;
  }
  absl::Status End(size_t layer) override {
    ended.push_back(layer);
    return end_with(layer);
  }
  // Of one use.
  std::span<const float> Of(size_t layer, size_t use) const {
    const GradientSpace::Place& place = space_.uses(layer)[use];
    return std::span(values).subspan(
        static_cast<size_t>(space_.window_begin(layer) + place.offset),
        static_cast<size_t>(layout_.entries()[place.tensor].tensor.size()));
  }
  const GradientSpace& space() const { return space_; }

 private:
  const FlatLayout& layout_;
  const GradientSpace space_;
  std::vector<float*> pointers_;

 public:
  std::vector<float> values;
  std::vector<size_t> ended;
  std::function<absl::Status(size_t)> end_with = [](size_t) { return absl::OkStatus(); };
};

// A model with everything around it.
struct Engine {
  Engine(const ModelSpec& spec, int64_t micro_batch, int threads, CpuIsa isa = BestIsa(),
         int64_t slots = 1, const Recompute& recompute = {})
      : plan(PlanModel(spec)),
        layout(plan.tensors),
        pool(threads),
        kernels(pool, isa),
        parameters(static_cast<size_t>(layout.size())),
        store(plan, layout, parameters.data()) {
    absl::StatusOr<std::unique_ptr<Model>> created = CreateModel(spec,
                                                                 {.micro_batch_size = micro_batch,
                                                                  .threads = threads,
                                                                  .slots = slots,
                                                                  .recompute = recompute},
                                                                 kernels, device);
    EXPECT_TRUE(created.ok()) << created.status();
    model = std::move(created).value();
    InitParameters(layout, /*seed=*/1, parameters.data());
  }

  void Forward(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets,
               size_t slot = 0) {
    const absl::Status status = model->Forward(slot, tokens.data(), targets.data(), store);
    EXPECT_TRUE(status.ok()) << status;
  }
  LossSum Loss() {
    const absl::StatusOr<LossSum> sum = model->Loss(0, store);
    EXPECT_TRUE(sum.ok()) << sum.status();
    return sum.value_or(LossSum{});
  }
  LossSum Backward(GradientSink& gradients, size_t slot = 0) {
    const absl::StatusOr<LossSum> sum = model->Backward(slot, store, gradients);
    EXPECT_TRUE(sum.ok()) << sum.status();
    return sum.value_or(LossSum{});
  }

  const ModelPlan plan;
  const FlatLayout layout;
  CpuDevice device;
  ThreadPool pool;
  CpuKernels kernels;
  std::vector<float> parameters;
  ReplicatedParameters store;
  std::unique_ptr<Model> model;
};

std::vector<int32_t> Tokens(int64_t n, int64_t vocab, const std::string& name) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(UniformWord(5, StreamId("test", name), i) %
                                     static_cast<uint32_t>(vocab));
  }
  return tokens;
}

// Initial weights are so small that a wrong attention gradient would drown: use larger ones, and
// biases and layernorms that are not 0 and 1.
void Roughen(std::vector<float>& parameters, const FlatLayout& layout) {
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const uint64_t stream = StreamId("rough", entry.tensor.name);
    for (int64_t i = 0; i < entry.tensor.size(); ++i) {
      float noise;
      NormalRange(2, stream, i, 1, 0.2f, &noise);
      parameters[static_cast<size_t>(entry.offset + i)] += noise;
    }
  }
}

// Tolerance: activations here are of order 1 and pass through some 20 sums of at most 128 terms, so
// floats (6e-8) keep about 5 digits; 2e-5 of a tensor's largest gradient is a few times what is
// seen, and a wrong term in any formula is of order 1.
void ExpectReferencesGradients(const ModelSpec& spec, int64_t batch) {
  Engine engine(spec, batch, 2);
  Roughen(engine.parameters, engine.layout);
  const int64_t rows = batch * spec.seq_length;
  const std::vector<int32_t> tokens = Tokens(rows, spec.vocab_size, "tokens");
  std::vector<int32_t> targets = Tokens(rows, spec.vocab_size, "targets");
  targets[3] = -1;
  targets[20] = -1;
  testing::ReferenceGpt2 reference(spec, engine.layout, engine.parameters.data());
  reference.Run(tokens, targets);

  engine.Forward(tokens, targets);
  const LossSum alone = engine.Loss();
  AllGradients gradients(engine.plan, engine.layout);
  const LossSum sum = engine.Backward(gradients);
  EXPECT_EQ(sum.tokens, rows - 2);
  EXPECT_NEAR(sum.loss, reference.loss, 1e-5 * reference.loss);
  EXPECT_EQ(alone.loss, sum.loss);
  EXPECT_EQ(alone.tokens, sum.tokens);

  const auto expect_tensor = [&](const std::string& name, std::span<const float> actual,
                                 const double* expected) {
    double largest = 0;
    for (size_t i = 0; i < actual.size(); ++i) largest = std::max(largest, std::fabs(expected[i]));
    EXPECT_GT(largest, 1e-3) << name << " has no gradient to compare";
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], 2e-5 * largest) << name << " element " << i;
    }
  };
  const size_t head = engine.plan.layers.size() - 1;
  for (size_t layer = 0; layer <= head; ++layer) {
    for (size_t use = 0; use < engine.plan.layers[layer].uses.size(); ++use) {
      const FlatLayout::Entry& entry = engine.layout.entries()[engine.plan.layers[layer].uses[use]];
      const bool tied = layer == head && use == head_layer::kTokenTable;
      expect_tensor(
          engine.plan.layers[layer].name + ": " + entry.tensor.name, gradients.Of(layer, use),
          tied ? reference.head_gradient.data() : reference.gradients.data() + entry.offset);
    }
  }
}

TEST(ModelTest, LossAndAllGradients_MatchTheDoublePrecisionReference) {
  ExpectReferencesGradients(Tiny(), 2);
}

// More rows than logits exist at a time, in a last piece of another size.
TEST(ModelTest, LogitsInPieces_MatchTheDoublePrecisionReference) {
  const ModelSpec spec{"long", 1, 16, 2, 300, 61};
  ASSERT_GT(2 * spec.seq_length, kHeadRows);
  ExpectReferencesGradients(spec, 2);
}

TEST(ModelTest, VocabularyOfTwo_MatchesTheDoublePrecisionReference) {
  ExpectReferencesGradients({"bits", 2, 16, 2, 24, 2}, 2);
}

// Says what was asked for; a tensor is there between Acquire and Release alone.
class SparingStore : public ParameterStore {
 public:
  SparingStore(const ModelPlan& plan, const FlatLayout& layout, const std::vector<float>& all)
      : plan_(plan),
        layout_(layout),
        all_(all),
        there_(all.size(), std::numeric_limits<float>::quiet_NaN()),
        inner_(plan, layout, there_.data()) {}

  absl::StatusOr<std::span<const ConstReals>> Acquire(size_t layer) override {
    acquired.push_back(layer);
    const absl::Status status = answer(layer);
    if (!status.ok()) return status;
    ForUses(layer, [&](Range range) {
      std::copy(all_.begin() + range.begin, all_.begin() + range.end, there_.begin() + range.begin);
    });
    return inner_.Acquire(layer);
  }
  void Release(size_t layer) override {
    ForUses(layer, [&](Range range) {
      std::fill(there_.begin() + range.begin, there_.begin() + range.end,
                std::numeric_limits<float>::quiet_NaN());
    });
  }

 private:
  template <typename Each>
  void ForUses(size_t layer, const Each& each) {
    for (const size_t tensor : plan_.layers[layer].uses) each(layout_.entries()[tensor].flat());
  }

  const ModelPlan& plan_;
  const FlatLayout& layout_;
  const std::vector<float>& all_;
  std::vector<float> there_;
  ReplicatedParameters inner_;

 public:
  std::vector<size_t> acquired;
  std::function<absl::Status(size_t)> answer = [](size_t) { return absl::OkStatus(); };
};

TEST(ModelTest, PassesReadNothingButTheLayersParameters) {
  Engine engine(Tiny(), 2, 2);
  Roughen(engine.parameters, engine.layout);
  const std::vector<int32_t> tokens = Tokens(24, 259, "tokens");
  engine.Forward(tokens, tokens);
  AllGradients whole(engine.plan, engine.layout);
  const LossSum loss = engine.Backward(whole);

  SparingStore store(engine.plan, engine.layout, engine.parameters);
  ASSERT_TRUE(engine.model->Forward(0, tokens.data(), tokens.data(), store).ok());
  std::vector<size_t> order(engine.plan.layers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  EXPECT_EQ(store.acquired, order);
  store.acquired.clear();
  AllGradients gradients(engine.plan, engine.layout);
  const absl::StatusOr<LossSum> sparing = engine.model->Backward(0, store, gradients);
  ASSERT_TRUE(sparing.ok()) << sparing.status();
  EXPECT_EQ(sparing->loss, loss.loss);
  std::reverse(order.begin(), order.end());
  EXPECT_EQ(store.acquired, order);
  EXPECT_EQ(gradients.ended, order);
  EXPECT_EQ(std::memcmp(gradients.values.data(), whole.values.data(),
                        whole.values.size() * sizeof(float)),
            0);
}

// The first error comes back and is the last thing that is asked for; the next pass is a whole one.
TEST(ModelTest, ErrorOnTheWay_EndsThePass) {
  Engine engine(Tiny(), 2, 1);
  const std::vector<int32_t> tokens = Tokens(24, 259, "tokens");
  engine.Forward(tokens, tokens);
  const double whole = engine.Loss().loss;
  const size_t layers = engine.plan.layers.size();
  for (size_t bad = 0; bad < layers; ++bad) {
    const auto fail = [bad](size_t layer) {
      return layer == bad ? absl::AbortedError("enough") : absl::OkStatus();
    };
    SparingStore store(engine.plan, engine.layout, engine.parameters);
    store.answer = fail;
    EXPECT_EQ(engine.model->Forward(0, tokens.data(), tokens.data(), store),
              absl::AbortedError("enough"));
    EXPECT_EQ(store.acquired.size(), bad + 1);
    engine.Forward(tokens, tokens);
    EXPECT_EQ(engine.Loss().loss, whole);

    AllGradients never(engine.plan, engine.layout);
    store.acquired.clear();
    EXPECT_EQ(engine.model->Backward(0, store, never).status(), absl::AbortedError("enough"));
    EXPECT_EQ(store.acquired.size(), layers - bad);
    EXPECT_EQ(never.ended.size(), layers - 1 - bad);

    AllGradients ends(engine.plan, engine.layout);
    ends.end_with = fail;
    EXPECT_EQ(engine.model->Backward(0, engine.store, ends).status(), absl::AbortedError("enough"));
    EXPECT_EQ(ends.ended.size(), layers - bad);
  }
}

// As in a pipeline: what one micro-batch keeps is not touched by the next.
TEST(ModelTest, MicroBatchesInFlight_HaveSlotsOfTheirOwn) {
  Engine one(Tiny(), 2, 1);
  Engine three(Tiny(), 2, 1, BestIsa(), /*slots=*/3);
  const auto tokens = [](size_t i) { return Tokens(24, 259, "tokens" + std::to_string(i)); };
  for (size_t slot = 0; slot < 3; ++slot) three.Forward(tokens(slot), tokens(slot + 3), slot);
  for (const size_t slot : {size_t{1}, size_t{0}, size_t{2}}) {
    one.Forward(tokens(slot), tokens(slot + 3));
    AllGradients alone(one.plan, one.layout);
    const LossSum loss = one.Backward(alone);
    AllGradients together(three.plan, three.layout);
    EXPECT_EQ(three.Backward(together, slot).loss, loss.loss) << "slot " << slot;
    EXPECT_EQ(std::memcmp(together.values.data(), alone.values.data(),
                          alone.values.size() * sizeof(float)),
              0)
        << "slot " << slot;
  }
}

// The same bits as without, whatever is played again; with several micro-batches in flight, too.
TEST(ModelTest, RecomputedLayers_ChangeNoBit) {
  for (const char* preset : {"gpt2-nano", "llama-nano"}) {
    ModelSpec spec = FindPreset(preset).value();
    spec.num_layers = 3;
    const ModelPlan plan = PlanModel(spec);
    const int64_t rows = 2 * spec.seq_length;
    const int64_t half = KeptBytes(plan, rows, 2, {}) / 2;
    Engine plain(spec, 2, 1);
    const auto tokens = [&](size_t i) {
      return Tokens(rows, spec.vocab_size, "tokens" + std::to_string(i));
    };
    for (const Recompute recompute : {Recompute{.every = 1}, Recompute{.every = 2},
                                      Recompute{.every = 3}, Recompute{.budget_bytes = half}}) {
      SCOPED_TRACE(std::string(preset) + ", every " + std::to_string(recompute.every));
      Engine again(spec, 2, 3, BestIsa(), /*slots=*/2, recompute);
      for (size_t slot = 0; slot < 2; ++slot) again.Forward(tokens(slot), tokens(slot + 2), slot);
      for (size_t slot = 0; slot < 2; ++slot) {
        plain.Forward(tokens(slot), tokens(slot + 2));
        AllGradients right(plain.plan, plain.layout);
        const LossSum loss = plain.Backward(right);
        AllGradients got(again.plan, again.layout);
        EXPECT_EQ(again.Backward(got, slot).loss, loss.loss);
        EXPECT_EQ(got.ended, right.ended);
        EXPECT_EQ(std::memcmp(got.values.data(), right.values.data(),
                              right.values.size() * sizeof(float)),
                  0);
      }
    }
  }
}

TEST(ModelTest, BudgetBelowTheInputsOfAllLayers_IsInvalid) {
  ThreadPool pool(1);
  CpuKernels kernels(pool, BestIsa());
  CpuDevice device;
  const absl::Status status =
      CreateModel(Tiny(), {.micro_batch_size = 2, .recompute = {.budget_bytes = 1000}}, kernels,
                  device)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("give at least that"), std::string::npos) << status;
}

TEST(ModelTest, Nano_HasTheSameBitsForAllThreadCountsAndInstructionSets) {
  const ModelSpec spec = FindPreset("gpt2-nano").value();
  const std::vector<int32_t> tokens = Tokens(2 * spec.seq_length, 256, "tokens");
  const std::vector<int32_t> targets = Tokens(2 * spec.seq_length, 256, "targets");
  const auto run = [&](CpuIsa isa, int threads, LossSum* sum) {
    Engine engine(spec, 2, threads, isa);
    engine.Forward(tokens, targets);
    AllGradients gradients(engine.plan, engine.layout);
    *sum = engine.Backward(gradients);
    return gradients.values;
  };
  LossSum expected_sum;
  const std::vector<float> expected = run(CpuIsa::kBaseline, 1, &expected_sum);
  EXPECT_NEAR(expected_sum.loss / static_cast<double>(expected_sum.tokens), std::log(256), 0.3);
  for (const CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa > BestIsa()) continue;
    for (const int threads : {1, 2}) {
      LossSum sum;
      const std::vector<float> gradients = run(isa, threads, &sum);
      EXPECT_EQ(sum.loss, expected_sum.loss) << IsaName(isa) << " " << threads;
      EXPECT_EQ(std::memcmp(gradients.data(), expected.data(), expected.size() * sizeof(float)), 0)
          << IsaName(isa) << " " << threads;
    }
  }
}

TEST(ModelTest, NextTokenLogits_AgreeWithTheLossOfThatToken) {
  const ModelSpec spec = Tiny();
  Engine engine(spec, 1, 2);
  Roughen(engine.parameters, engine.layout);
  const std::vector<int32_t> tokens = Tokens(12, 259, "tokens");
  for (const int64_t length : {1, 5, 12}) {
    std::vector<int32_t> targets(12, -1);
    targets[static_cast<size_t>(length - 1)] = 4;
    engine.Forward(tokens, targets);
    const LossSum sum = engine.Loss();
    EXPECT_EQ(sum.tokens, 1);
    std::vector<float> logits(259);
    ASSERT_TRUE(
        engine.model->NextTokenLogits(tokens.data(), length, engine.store, logits.data()).ok());
    double total = 0;
    for (const float logit : logits) total += std::exp(double{logit});
    EXPECT_NEAR(std::log(total) - logits[4], sum.loss, 1e-5) << "length " << length;
  }
}

// --- Dropout

constexpr PassDraws kDraws = {
    .seed = 9, .step = 3, .first_sample = 4, .rates = {.hidden = 0.2, .attention = 0.3}};

ModelSpec TinyRotary() {
  ModelSpec spec{"rotary", 2, 24, 4, 12, 259};
  spec.family = "llama";
  spec.query_groups = 2;
  spec.head_channels = 4;  // heads are narrower than the stream together
  spec.ffn_hidden_size = 40;
  spec.norm_epsilon = 1e-5;
  spec.rope_base = 10000;
  return spec;
}

LossSum LossWith(Engine& engine, const std::vector<int32_t>& tokens,
                 const std::vector<int32_t>& targets, const std::optional<PassDraws>& draws) {
  EXPECT_TRUE(engine.model->Forward(0, tokens.data(), targets.data(), draws, engine.store).ok());
  return engine.Loss();
}

// Of every tensor, along its gradient: the loss changes by the gradient's length for each step of
// one. Losses are fp32 numbers of order 6, 24 of them in a sum: 1e-2 apart, their rounding is some
// 1e-3 of a gradient of length 1, and curvature less.
void ExpectDroppedGradients(const ModelSpec& spec) {
  Engine engine(spec, 2, 2);
  Roughen(engine.parameters, engine.layout);
  const std::vector<int32_t> tokens = Tokens(2 * spec.seq_length, spec.vocab_size, "tokens");
  const std::vector<int32_t> targets = Tokens(2 * spec.seq_length, spec.vocab_size, "targets");
  const LossSum alone = LossWith(engine, tokens, targets, kDraws);
  ASSERT_NE(alone.loss, LossWith(engine, tokens, targets, std::nullopt).loss);
  ASSERT_EQ(alone.loss, LossWith(engine, tokens, targets, kDraws).loss);
  AllGradients gradients(engine.plan, engine.layout);
  EXPECT_EQ(engine.Backward(gradients).loss, alone.loss);
  for (size_t tensor = 0; tensor < engine.plan.tensors.size(); ++tensor) {
    const FlatLayout::Entry& entry = engine.layout.entries()[tensor];
    std::vector<double> sum(static_cast<size_t>(entry.tensor.size()));
    for (size_t layer = 0; layer < engine.plan.layers.size(); ++layer) {
      for (size_t use = 0; use < engine.plan.layers[layer].uses.size(); ++use) {
        if (engine.plan.layers[layer].uses[use] != tensor) continue;
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += gradients.Of(layer, use)[i];
      }
    }
    double square = 0;
    for (const double g : sum) square += g * g;
    const double length = std::sqrt(square);
    ASSERT_GT(length, 1e-2) << entry.tensor.name;
    const std::vector<float> before = engine.parameters;
    const auto loss_at = [&](double step) {
      for (size_t i = 0; i < sum.size(); ++i) {
        const size_t at = static_cast<size_t>(entry.offset) + i;
        engine.parameters[at] = static_cast<float>(double{before[at]} + step * sum[i] / length);
      }
      return LossWith(engine, tokens, targets, kDraws).loss;
    };
    constexpr double kStep = 5e-3;
    const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
    engine.parameters = before;
    EXPECT_NEAR(slope, length, 1e-2 * length + 1e-3) << entry.tensor.name;
  }
}

TEST(ModelDropoutTest, GradientsOfTheWholeModel_MatchFiniteDifferences_OfBothFamilies) {
  ExpectDroppedGradients(Tiny());
  ExpectDroppedGradients(TinyRotary());
}

// Every sequence is dropped by its own sample's mask, whatever stands beside it.
TEST(ModelDropoutTest, ASample_HasTheSameLossAloneAndInAMicroBatch) {
  for (const ModelSpec& spec : {Tiny(), TinyRotary()}) {
    const auto length = static_cast<size_t>(spec.seq_length);
    const std::vector<int32_t> tokens = Tokens(3 * spec.seq_length, spec.vocab_size, "tokens");
    Engine three(spec, 3, 1);
    Engine one(spec, 1, 1);
    const double together = LossWith(three, tokens, tokens, kDraws).loss;
    double apart = 0;
    for (size_t sample = 0; sample < 3; ++sample) {
      const std::vector<int32_t> of_sample(
          tokens.begin() + static_cast<ptrdiff_t>(sample * length),
          tokens.begin() + static_cast<ptrdiff_t>((sample + 1) * length));
      PassDraws draws = kDraws;
      draws.first_sample += static_cast<int64_t>(sample);
      apart += LossWith(one, of_sample, of_sample, draws).loss;
    }
    EXPECT_NEAR(together, apart, 1e-5 * together);
  }
}

// A second forward drops what the first did; slots in flight keep their own draws.
TEST(ModelDropoutTest, RecomputationAndSlots_HaveTheSameGradients) {
  for (const ModelSpec& spec : {Tiny(), TinyRotary()}) {
    const std::vector<int32_t> tokens = Tokens(2 * spec.seq_length, spec.vocab_size, "tokens");
    const auto draws = [](size_t slot) {
      PassDraws of_slot = kDraws;
      of_slot.first_sample += 2 * static_cast<int64_t>(slot);
      return of_slot;
    };
    const auto play = [&](Engine& engine, size_t slot) {
      const absl::Status status =
          engine.model->Forward(slot, tokens.data(), tokens.data(), draws(slot), engine.store);
      EXPECT_TRUE(status.ok()) << status;
    };
    Engine plain(spec, 2, 1);
    std::vector<std::vector<float>> expected;
    for (size_t slot = 0; slot < 2; ++slot) {
      EXPECT_TRUE(
          plain.model->Forward(0, tokens.data(), tokens.data(), draws(slot), plain.store).ok());
      AllGradients gradients(plain.plan, plain.layout);
      plain.Backward(gradients);
      expected.push_back(gradients.values);
    }
    EXPECT_NE(expected[0], expected[1]);
    for (const int64_t every : {0, 1, 2}) {
      Engine again(spec, 2, 1, BestIsa(), /*slots=*/2, {.every = every});
      for (size_t slot = 0; slot < 2; ++slot) play(again, slot);
      for (size_t slot = 0; slot < 2; ++slot) {
        AllGradients gradients(again.plan, again.layout);
        again.Backward(gradients, slot);
        EXPECT_EQ(std::memcmp(gradients.values.data(), expected[slot].data(),
                              expected[slot].size() * sizeof(float)),
                  0)
            << "every " << every << ", slot " << slot;
      }
    }
  }
}

// Outside of training nothing is dropped, also right after a step.
TEST(ModelDropoutTest, SamplingAndEvaluation_DropNothing) {
  const ModelSpec spec = Tiny();
  const std::vector<int32_t> tokens = Tokens(spec.seq_length, spec.vocab_size, "tokens");
  Engine fresh(spec, 1, 1);
  Engine trained(spec, 1, 1);
  LossWith(trained, tokens, tokens, kDraws);
  std::vector<float> expected(259), logits(259);
  ASSERT_TRUE(fresh.model->NextTokenLogits(tokens.data(), 7, fresh.store, expected.data()).ok());
  ASSERT_TRUE(trained.model->NextTokenLogits(tokens.data(), 7, trained.store, logits.data()).ok());
  EXPECT_EQ(logits, expected);
  LossWith(trained, tokens, tokens, kDraws);
  EXPECT_EQ(LossWith(trained, tokens, tokens, std::nullopt).loss,
            LossWith(fresh, tokens, tokens, std::nullopt).loss);
  PassDraws none = kDraws;
  none.rates = {};
  EXPECT_EQ(LossWith(trained, tokens, tokens, none).loss,
            LossWith(fresh, tokens, tokens, std::nullopt).loss);
}

// GPT-2's vocabulary: an odd number of columns, many tiles, padded rows of logits.
TEST(ModelTest, LargeVocabulary_GradientsMatchTheReference) {
  const ModelSpec spec{"wide", 1, 16, 2, 5, 50257};
  Engine engine(spec, 1, 2);
  const std::vector<int32_t> tokens = {50256, 0, 7, 50000, 31};
  const std::vector<int32_t> targets = {0, 50256, 123, -1, 50256};
  testing::ReferenceGpt2 reference(spec, engine.layout, engine.parameters.data());
  reference.Run(tokens, targets);
  engine.Forward(tokens, targets);
  AllGradients gradients(engine.plan, engine.layout);
  const LossSum sum = engine.Backward(gradients);
  EXPECT_NEAR(sum.loss, reference.loss, 1e-5 * reference.loss);
  const size_t head = engine.plan.layers.size() - 1;
  const std::span<const float> embedded = gradients.Of(0, embedding_layer::kTokenTable);
  const std::span<const float> in_head = gradients.Of(head, head_layer::kTokenTable);
  ASSERT_EQ(in_head.size(), reference.head_gradient.size());
  const auto table = static_cast<size_t>(engine.layout.Find("wte.weight").offset);
  for (size_t i = 0; i < in_head.size(); ++i) {
    ASSERT_NEAR(embedded[i], reference.gradients[table + i], 2e-5);
    ASSERT_NEAR(in_head[i], reference.head_gradient[i], 2e-5);
  }
}

TEST(ModelTest, Create_WithoutASequence_IsInvalid) {
  ThreadPool pool(1);
  CpuKernels kernels(pool, BestIsa());
  CpuDevice device;
  EXPECT_EQ(CreateModel(Tiny(), {.micro_batch_size = 0}, kernels, device).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace dsrun::worker
