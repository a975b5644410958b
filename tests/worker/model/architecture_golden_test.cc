// Seven architectures against numbers that Hugging Face's transformers 5.24.0 gave in double
// precision (PyTorch 2.15, 2026-11-26), with weights made by a formula: nothing is downloaded, and
// nothing of ours made what is expected. Logits to 1e-4, loss to 1e-5, gradient norm to 1e-4 of
// itself; floats were seen to differ by 6e-6.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/plan/gradient_space.h"
#include "common/plan/shard_plan.h"
#include "worker/device/cpu/cpu_device.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/model/model.h"
#include "worker/parallel/replicated_parameters.h"

namespace dsrun::worker {
namespace {

constexpr std::array<int32_t, 12> kTokens = {3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26};
constexpr int64_t kVocabulary = 96;

struct Golden {
  const char* name;
  ModelSpec spec;
  size_t tensors;
  std::array<double, 4> last_logits;  // the first of the last position
  std::array<int, 12> greatest;       // logit of every position
  double loss;                        // mean over the eleven targets
  double gradient_norm;
};

ModelSpec Rotated() {
  ModelSpec spec{"golden", 2, 64, 4, 12, kVocabulary};
  spec.family = "llama";
  spec.query_groups = 2;
  spec.ffn_hidden_size = 96;
  spec.norm_epsilon = 1e-5;
  spec.rope_base = 10000;
  spec.untied_output = true;
  return spec;
}

template <typename Change>
ModelSpec RotatedWith(const Change& change) {
  ModelSpec spec = Rotated();
  change(spec);
  return spec;
}

std::vector<Golden> Goldens() {
  return {
      {"gpt2",
       {"golden", 2, 64, 4, 64, kVocabulary},
       28,
       {-2.194602, -2.299162, -2.300410, -1.847185},
       {12, 0, 0, 64, 0, 70, 75, 70, 3, 75, 70, 62},
       4.9723458,
       14.09896},
      {"llama",
       Rotated(),
       21,
       {.499193, -.088645, .498377, .936868},
       {75, 2, 38, 87, 23, 29, 4, 28, 23, 33, 19, 3},
       4.8818226,
       6.66663},
      {"llama_with_everything",
       RotatedWith([](ModelSpec& spec) {
         spec.head_channels = 32;
         spec.qkv_bias = spec.attention_out_bias = spec.mlp_bias = true;
         spec.untied_output = false;
         spec.rope_scaling = "llama3";
         spec.rope_factor = 4;
         spec.rope_low_turns = 1;
         spec.rope_high_turns = 4;
         spec.rope_original_length = 32;
       }),
       34,
       {.472901, .862584, .426945, .938834},
       {6, 68, 19, 64, 78, 51, 90, 68, 9, 26, 68, 81},
       5.0643550,
       5.24120},
      {"mistral",
       RotatedWith([](ModelSpec& spec) {
         spec.head_channels = 32;
         spec.window = 3;
       }),
       21,
       {1.707117, 1.662950, 2.114997, 2.169268},
       {14, 87, 87, 22, 22, 70, 15, 87, 77, 47, 34, 73},
       4.9227552,
       8.18433},
      {"qwen2",
       RotatedWith([](ModelSpec& spec) { spec.qkv_bias = true; }),
       27,
       {.434261, .985538, .425856, .068078},
       {78, 8, 8, 33, 6, 8, 29, 8, 75, 4, 82, 33},
       4.8282496,
       7.53021},
      {"qwen2_yarn",
       RotatedWith([](ModelSpec& spec) {
         spec.qkv_bias = true;
         spec.rope_scaling = "yarn";
         spec.rope_factor = 4;
         spec.rope_low_turns = 1;
         spec.rope_high_turns = 32;
         spec.rope_original_length = 16;
       }),
       27,
       {.338556, .790992, .366080, .072782},
       {78, 8, 8, 33, 6, 9, 28, 8, 75, 8, 82, 1},
       5.0378389,
       4.94816},
      {"qwen3",
       RotatedWith([](ModelSpec& spec) {
         spec.head_channels = 32;
         spec.qk_norm = true;
       }),
       25,
       {-.457976, -1.187016, -.623392, -.096749},
       {16, 17, 91, 66, 28, 73, 31, 79, 28, 76, 79, 21},
       5.7798451,
       7.48527},
  };
}

// Element `flat` of the tensor whose name is the `index`-th in the order of bytes, from 1.
float Weight(const std::string& name, int64_t index, int64_t flat) {
  const double u = static_cast<double>((7919 * flat + 104729 * index) % 2003) / 2003 - 0.5;
  const bool norm =
      (name.find("norm") != std::string::npos || name.find("ln_") != std::string::npos) &&
      name.ends_with("weight");
  return static_cast<float>(norm ? 1 + 0.5 * u : 0.4 * u);
}

// Adds up the uses of every tensor.
class SummedGradients : public GradientSink {
 public:
  SummedGradients(const ModelPlan& plan, const FlatLayout& layout)
      : plan_(plan), layout_(layout), space_(plan, layout) {
    window_.resize(static_cast<size_t>(space_.largest_window()));
    sums.resize(static_cast<size_t>(layout.size()));
  }

  std::span<float* const> Begin(size_t layer) override {
    std::fill(window_.begin(), window_.end(), std::numeric_limits<float>::quiet_NaN());
    pointers_.clear();
    for (const GradientSpace::Place& use : space_.uses(layer)) {
      pointers_.push_back(window_.data() + use.offset);
    }
    return pointers_;
  }
  absl::Status End(size_t layer) override {
    for (size_t use = 0; use < pointers_.size(); ++use) {
      const FlatLayout::Entry& entry = layout_.entries()[plan_.layers[layer].uses[use]];
      for (int64_t i = 0; i < entry.tensor.size(); ++i) {
        sums[static_cast<size_t>(entry.offset + i)] += double{pointers_[use][i]};
      }
    }
    return absl::OkStatus();
  }

 private:
  const ModelPlan& plan_;
  const FlatLayout& layout_;
  const GradientSpace space_;
  std::vector<float> window_;
  std::vector<float*> pointers_;

 public:
  std::vector<double> sums;
};

class ArchitectureGoldenTest : public ::testing::TestWithParam<Golden> {
 protected:
  ArchitectureGoldenTest()
      : plan_(PlanModel(GetParam().spec)),
        layout_(plan_.tensors),
        parameters_(static_cast<size_t>(layout_.size())),
        store_(plan_, layout_, parameters_.data()) {
    std::map<std::string, const FlatLayout::Entry*> by_name;
    for (const FlatLayout::Entry& entry : layout_.entries()) by_name[entry.tensor.name] = &entry;
    int64_t index = 0;
    for (const auto& [name, entry] : by_name) {
      ++index;
      for (int64_t i = 0; i < entry->tensor.size(); ++i) {
        parameters_[static_cast<size_t>(entry->offset + i)] = Weight(name, index, i);
      }
    }
    absl::StatusOr<std::unique_ptr<Model>> model =
        CreateModel(GetParam().spec, {.micro_batch_size = 1, .threads = 2}, kernels_, device_);
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = std::move(model).value();
  }

  const ModelPlan plan_;
  const FlatLayout layout_;
  CpuDevice device_;
  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, BestIsa()};
  std::vector<float> parameters_;
  ReplicatedParameters store_;
  std::unique_ptr<Model> model_;
};

TEST_P(ArchitectureGoldenTest, LogitsLossAndGradientNorm_AreThoseOfTransformers) {
  const Golden& golden = GetParam();
  EXPECT_EQ(plan_.tensors.size(), golden.tensors);
  // Positions behind the sequence are masked, and nothing before them sees them.
  std::vector<int32_t> tokens(static_cast<size_t>(golden.spec.seq_length), 0);
  std::vector<int32_t> targets(tokens.size(), -1);
  std::copy(kTokens.begin(), kTokens.end(), tokens.begin());
  std::copy(kTokens.begin() + 1, kTokens.end(), targets.begin());

  std::vector<float> logits(kVocabulary);
  for (size_t position = 0; position < kTokens.size(); ++position) {
    ASSERT_TRUE(model_
                    ->NextTokenLogits(tokens.data(), static_cast<int64_t>(position) + 1, store_,
                                      logits.data())
                    .ok());
    const auto greatest = std::max_element(logits.begin(), logits.end()) - logits.begin();
    EXPECT_EQ(greatest, golden.greatest[position]) << "position " << position;
  }
  for (size_t i = 0; i < golden.last_logits.size(); ++i) {
    EXPECT_NEAR(logits[i], golden.last_logits[i], 1e-4) << "logit " << i;
  }

  ASSERT_TRUE(model_->Forward(0, tokens.data(), targets.data(), store_).ok());
  SummedGradients gradients(plan_, layout_);
  const absl::StatusOr<LossSum> loss = model_->Backward(0, store_, gradients);
  ASSERT_TRUE(loss.ok()) << loss.status();
  ASSERT_EQ(loss->tokens, 11);
  EXPECT_NEAR(loss->loss / 11, golden.loss, 1e-5);
  double squares = 0;
  for (const double gradient : gradients.sums) squares += gradient / 11 * (gradient / 11);
  EXPECT_NEAR(std::sqrt(squares), golden.gradient_norm, 1e-4 * golden.gradient_norm);
}

// The norm above is one number: here every tensor's gradient is the slope of the loss along it. A
// loss of some 55 nats has an error of 1e-5 in floats, a step of 2e-3 leaves 2e-3 of curvature.
TEST_P(ArchitectureGoldenTest, EveryTensorsGradient_IsTheSlopeOfTheLoss) {
  std::vector<int32_t> tokens(static_cast<size_t>(GetParam().spec.seq_length), 0);
  std::vector<int32_t> targets(tokens.size(), -1);
  std::copy(kTokens.begin(), kTokens.end(), tokens.begin());
  std::copy(kTokens.begin() + 1, kTokens.end(), targets.begin());
  ASSERT_TRUE(model_->Forward(0, tokens.data(), targets.data(), store_).ok());
  SummedGradients gradients(plan_, layout_);
  ASSERT_TRUE(model_->Backward(0, store_, gradients).ok());

  const std::vector<float> start = parameters_;
  for (const FlatLayout::Entry& entry : layout_.entries()) {
    const auto first = static_cast<size_t>(entry.offset);
    const auto last = first + static_cast<size_t>(entry.tensor.size());
    double squares = 0;
    for (size_t i = first; i < last; ++i) squares += gradients.sums[i] * gradients.sums[i];
    const double norm = std::sqrt(squares);
    ASSERT_GT(norm, 1e-3) << entry.tensor.name << " has no gradient to compare";
    const auto loss_at = [&](double step) {
      for (size_t i = first; i < last; ++i) {
        parameters_[i] = static_cast<float>(start[i] + step * gradients.sums[i] / norm);
      }
      EXPECT_TRUE(model_->Forward(0, tokens.data(), targets.data(), store_).ok());
      const absl::StatusOr<LossSum> loss = model_->Loss(0, store_);
      EXPECT_TRUE(loss.ok()) << loss.status();
      return loss.value_or(LossSum{}).loss;
    };
    constexpr double kStep = 2e-3;
    const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
    EXPECT_NEAR(slope, norm, 0.01 * norm + 0.01) << entry.tensor.name;
    std::copy(start.begin(), start.end(), parameters_.begin());
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, ArchitectureGoldenTest, ::testing::ValuesIn(Goldens()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace dsrun::worker
