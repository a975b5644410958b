#include "worker/model/gpt2_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/plan/activation_plan.h"
#include "common/plan/shard_plan.h"
#include "tests/worker/model/reference_gpt2.h"
#include "worker/device/cpu/cpu_device.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/random_normal.h"
#include "worker/model/init.h"

namespace dsrun::worker {
namespace {

ModelSpec Tiny() { return {"tiny", 2, 32, 4, 12, 259}; }

const RangeFn kGoOn = [](Range) { return absl::OkStatus(); };

// A model with everything around it.
struct Engine {
  Engine(const ModelSpec& spec, int64_t micro_batch, int threads, CpuIsa isa = BestIsa())
      : layout(LogicalTensors(spec)),
        pool(threads),
        kernels(pool, isa),
        parameters(static_cast<size_t>(layout.size())) {
    absl::StatusOr<std::unique_ptr<Model>> created =
        CreateGpt2Model(spec, micro_batch, threads, kernels, device);
    EXPECT_TRUE(created.ok()) << created.status();
    model = std::move(created).value();
    InitParameters(spec, layout, /*seed=*/1, parameters.data());
  }

  LossSum Forward(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets) {
    const absl::StatusOr<LossSum> sum =
        model->Forward(parameters.data(), tokens.data(), targets.data(), kGoOn);
    EXPECT_TRUE(sum.ok()) << sum.status();
    return sum.value_or(LossSum{});
  }
  void Backward(std::vector<float>& gradients) {
    const absl::Status status = model->Backward(parameters.data(), gradients.data(), kGoOn);
    EXPECT_TRUE(status.ok()) << status;
  }

  FlatLayout layout;
  CpuDevice device;
  ThreadPool pool;
  CpuKernels kernels;
  std::vector<float> parameters;
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
TEST(Gpt2ModelTest, LossAndAllGradients_MatchTheDoublePrecisionReference) {
  const ModelSpec spec = Tiny();
  Engine engine(spec, 2, 2);
  Roughen(engine.parameters, engine.layout);
  const std::vector<int32_t> tokens = Tokens(24, 259, "tokens");
  std::vector<int32_t> targets = Tokens(24, 259, "targets");
  targets[3] = -1;
  targets[20] = -1;
  testing::ReferenceGpt2 reference(spec, engine.layout, engine.parameters.data());
  reference.Run(tokens, targets);

  const LossSum sum = engine.Forward(tokens, targets);
  EXPECT_EQ(sum.tokens, 22);
  EXPECT_NEAR(sum.loss, reference.loss, 1e-5 * reference.loss);

  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> gradients(static_cast<size_t>(engine.model->gradient_size()), nan);
  engine.Backward(gradients);
  const auto expect_tensor = [&](const std::string& name, const float* actual,
                                 const double* expected, int64_t n) {
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(expected[i]));
    EXPECT_GT(largest, 1e-3) << name << " has no gradient to compare";
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_NEAR(actual[i], expected[i], 2e-5 * largest) << name << " element " << i;
    }
  };
  for (const FlatLayout::Entry& entry : engine.layout.entries()) {
    expect_tensor(entry.tensor.name, gradients.data() + entry.offset,
                  reference.gradients.data() + entry.offset, entry.tensor.size());
    for (int64_t i = entry.flat().end; i < entry.padded().end; ++i) {
      ASSERT_EQ(gradients[static_cast<size_t>(i)], 0) << "padding of " << entry.tensor.name;
    }
  }
  const int64_t head = engine.layout.size();
  const int64_t head_elements = static_cast<int64_t>(reference.head_gradient.size());
  expect_tensor("head", gradients.data() + head, reference.head_gradient.data(), head_elements);
  for (int64_t i = head + head_elements; i < engine.model->gradient_size(); ++i) {
    ASSERT_EQ(gradients[static_cast<size_t>(i)], 0) << "padding of the head";
  }
}

TEST(Gpt2ModelTest, GradientSpace_IsParametersPlusTheHeadsUseOfWte) {
  Engine engine(Tiny(), 1, 1);
  EXPECT_EQ(engine.model->gradient_size(),
            engine.layout.size() + engine.layout.Find("wte.weight").padded().size());
}

TEST(Gpt2ModelTest, Forward_ReadsNothingThatItHasNotAskedFor) {
  Engine engine(Tiny(), 2, 2);
  Roughen(engine.parameters, engine.layout);
  const std::vector<int32_t> tokens = Tokens(24, 259, "tokens");
  const LossSum whole = engine.Forward(tokens, tokens);

  auto there = engine.parameters;
  std::fill(there.begin(), there.end(), std::numeric_limits<float>::quiet_NaN());
  int64_t end = 0;
  int64_t ranges = 0;
  const absl::StatusOr<LossSum> bit_by_bit =
      engine.model->Forward(there.data(), tokens.data(), tokens.data(), [&](Range range) {
        EXPECT_EQ(range.begin, end);
        EXPECT_FALSE(range.empty());
        end = range.end;
        ++ranges;
        std::copy(engine.parameters.begin() + range.begin, engine.parameters.begin() + range.end,
                  there.begin() + range.begin);
        return absl::OkStatus();
      });
  ASSERT_TRUE(bit_by_bit.ok()) << bit_by_bit.status();
  EXPECT_EQ(end, engine.layout.size());
  EXPECT_EQ(ranges, 4 * Tiny().num_layers + 2);
  EXPECT_EQ(bit_by_bit->loss, whole.loss);
}

TEST(Gpt2ModelTest, Backward_ReportsDescendingAdjacentFinalRanges) {
  const ModelSpec spec = Tiny();
  Engine engine(spec, 2, 1);
  const std::vector<int32_t> tokens = Tokens(24, 259, "tokens");
  engine.Forward(tokens, tokens);
  const size_t size = static_cast<size_t>(engine.model->gradient_size());
  std::vector<float> gradients(size, std::numeric_limits<float>::quiet_NaN());
  std::vector<float> when_ready(size, 99.0f);
  int64_t end = engine.model->gradient_size();
  int64_t ranges = 0;
  const auto check = [&](Range range) {
    EXPECT_EQ(range.end, end);
    EXPECT_FALSE(range.empty());
    end = range.begin;
    ++ranges;
    std::copy(gradients.begin() + range.begin, gradients.begin() + range.end,
              when_ready.begin() + range.begin);
    return absl::OkStatus();
  };
  EXPECT_TRUE(engine.model->Backward(engine.parameters.data(), gradients.data(), check).ok());
  EXPECT_EQ(end, 0);
  EXPECT_EQ(ranges, static_cast<int64_t>(engine.layout.entries().size()) + 1);
  // Nothing was written after it was reported.
  EXPECT_EQ(std::memcmp(gradients.data(), when_ready.data(), size * sizeof(float)), 0);
}

// The first error comes back and is the last thing that is asked for; the next pass is a whole one.
TEST(Gpt2ModelTest, ErrorOnTheWay_EndsThePass) {
  Engine engine(Tiny(), 2, 1);
  const std::vector<int32_t> tokens = Tokens(24, 259, "tokens");
  const double whole = engine.Forward(tokens, tokens).loss;
  int calls = 0;
  int good = 0;  // calls
  const RangeFn fail_after = [&](Range) {
    return ++calls <= good ? absl::OkStatus() : absl::AbortedError("enough");
  };
  for (good = 0; good < 4 * Tiny().num_layers + 2; ++good) {
    calls = 0;
    const absl::StatusOr<LossSum> sum =
        engine.model->Forward(engine.parameters.data(), tokens.data(), tokens.data(), fail_after);
    EXPECT_EQ(sum.status(), absl::AbortedError("enough")) << "after " << good;
    EXPECT_EQ(calls, good + 1);
  }
  EXPECT_EQ(engine.Forward(tokens, tokens).loss, whole);
  std::vector<float> gradients(static_cast<size_t>(engine.model->gradient_size()));
  const auto tensors = static_cast<int>(engine.layout.entries().size());
  for (good = 0; good < tensors + 1; ++good) {
    calls = 0;
    EXPECT_EQ(engine.model->Backward(engine.parameters.data(), gradients.data(), fail_after),
              absl::AbortedError("enough"))
        << "after " << good;
    EXPECT_EQ(calls, good + 1);
  }
}

// A pass that is left off in a block does not go on to the next one.
TEST(Gpt2ModelTest, ErrorOnTheWay_LeavesLaterBlocksAlone) {
  Engine engine(Tiny(), 2, 1);
  const std::vector<int32_t> tokens = Tokens(24, 259, "tokens");
  engine.Forward(tokens, tokens);
  const float untouched = 99;
  std::vector<float> gradients(static_cast<size_t>(engine.model->gradient_size()), untouched);
  const int64_t last_block = engine.layout.Find("h.1.ln_1.weight").offset;
  const absl::Status status =
      engine.model->Backward(engine.parameters.data(), gradients.data(), [&](Range range) {
        return range.begin > last_block ? absl::OkStatus() : absl::AbortedError("enough");
      });
  EXPECT_EQ(status, absl::AbortedError("enough"));
  const auto end = gradients.begin() + last_block;
  EXPECT_TRUE(std::all_of(gradients.begin(), end, [&](float g) { return g == untouched; }));
  EXPECT_NE(*end, untouched);
}

TEST(Gpt2ModelTest, Nano_HasTheSameBitsForAllThreadCountsAndInstructionSets) {
  const ModelSpec spec = FindPreset("gpt2-nano").value();
  const std::vector<int32_t> tokens = Tokens(2 * spec.seq_length, 256, "tokens");
  const std::vector<int32_t> targets = Tokens(2 * spec.seq_length, 256, "targets");
  const auto run = [&](CpuIsa isa, int threads, LossSum* sum) {
    Engine engine(spec, 2, threads, isa);
    *sum = engine.Forward(tokens, targets);
    std::vector<float> gradients(static_cast<size_t>(engine.model->gradient_size()));
    engine.Backward(gradients);
    return gradients;
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

TEST(Gpt2ModelTest, NextTokenLogits_AgreeWithTheLossOfThatToken) {
  const ModelSpec spec = Tiny();
  Engine engine(spec, 1, 2);
  Roughen(engine.parameters, engine.layout);
  const std::vector<int32_t> tokens = Tokens(12, 259, "tokens");
  for (const int64_t length : {1, 5, 12}) {
    std::vector<int32_t> targets(12, -1);
    targets[static_cast<size_t>(length - 1)] = 4;
    const LossSum sum = engine.Forward(tokens, targets);
    EXPECT_EQ(sum.tokens, 1);
    std::vector<float> logits(259);
    engine.model->NextTokenLogits(engine.parameters.data(), tokens.data(), length, logits.data());
    double total = 0;
    for (const float logit : logits) total += std::exp(double{logit});
    EXPECT_NEAR(std::log(total) - logits[4], sum.loss, 1e-5) << "length " << length;
  }
}

// GPT-2's vocabulary: an odd number of columns, many tiles, padded rows of logits.
TEST(Gpt2ModelTest, LargeVocabulary_GradientsMatchTheReference) {
  const ModelSpec spec{"wide", 1, 16, 2, 5, 50257};
  Engine engine(spec, 1, 2);
  const std::vector<int32_t> tokens = {50256, 0, 7, 50000, 31};
  const std::vector<int32_t> targets = {0, 50256, 123, -1, 50256};
  testing::ReferenceGpt2 reference(spec, engine.layout, engine.parameters.data());
  reference.Run(tokens, targets);
  const LossSum sum = engine.Forward(tokens, targets);
  EXPECT_NEAR(sum.loss, reference.loss, 1e-5 * reference.loss);
  std::vector<float> gradients(static_cast<size_t>(engine.model->gradient_size()));
  engine.Backward(gradients);
  for (int64_t i = 0; i < engine.layout.size(); ++i) {
    ASSERT_NEAR(gradients[static_cast<size_t>(i)], reference.gradients[static_cast<size_t>(i)],
                2e-5);
  }
  for (size_t i = 0; i < reference.head_gradient.size(); ++i) {
    ASSERT_NEAR(gradients[static_cast<size_t>(engine.layout.size()) + i],
                reference.head_gradient[i], 2e-5);
  }
}

TEST(Gpt2ModelTest, Create_WithoutASequence_IsInvalid) {
  ThreadPool pool(1);
  CpuKernels kernels(pool, BestIsa());
  CpuDevice device;
  EXPECT_EQ(CreateGpt2Model(Tiny(), 0, 1, kernels, device).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ActivationPlanTest, EveryBufferIsAlignedNamedAndUnique) {
  const std::vector<PlannedBuffer> plan = PlanActivations(Tiny(), 3, 2);
  std::vector<std::string> names;
  for (const PlannedBuffer& buffer : plan) {
    EXPECT_EQ(buffer.bytes() % 64, 0) << buffer.name;
    EXPECT_GT(buffer.elements, 0) << buffer.name;
    EXPECT_EQ(std::count(names.begin(), names.end(), buffer.name), 0) << buffer.name;
    names.push_back(buffer.name);
  }
}

}  // namespace
}  // namespace dsrun::worker
