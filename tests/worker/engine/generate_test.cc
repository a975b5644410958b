#include "worker/engine/generate.h"

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun::worker {
namespace {

TEST(SampleByteTest, ZeroTemperatureTakesTheMostLikely) {
  const std::vector<float> logits = {0.f, 3.f, 1.f};
  EXPECT_EQ(SampleByte(logits, 0, 0.99), 1);
}

TEST(SampleByteTest, UniformWalksTheCumulativeDistribution) {
  const std::vector<float> logits = {0.f, 0.f, 0.f, 0.f};
  EXPECT_EQ(SampleByte(logits, 1, 0.0), 0);
  EXPECT_EQ(SampleByte(logits, 1, 0.26), 1);
  EXPECT_EQ(SampleByte(logits, 1, 0.74), 2);
  EXPECT_EQ(SampleByte(logits, 1, 0.999), 3);
}

TEST(SampleByteTest, TemperatureSharpens) {
  const std::vector<float> logits = {0.f, 1.f};
  EXPECT_EQ(SampleByte(logits, 1, 0.2), 0);    // p(0) = 0.27
  EXPECT_EQ(SampleByte(logits, 0.1, 0.2), 1);  // p(0) = 0.00005
}

// A model that always continues a byte with the next one, and remembers what it was asked.
class CountingModel : public Model {
 public:
  explicit CountingModel(int64_t vocab_size) {
    plan_.spec = {"", 1, 8, 1, /*seq_length=*/4, vocab_size};
  }

  const ModelPlan& plan() const override { return plan_; }
  void SetGradientScale(float) override {}
  absl::StatusOr<size_t> FirstBadLayer(size_t) override { return 0; }
  absl::Status Forward(size_t, const int32_t*, const int32_t*, const std::optional<PassDraws>&,
                       ParameterStore&) override {
    return absl::OkStatus();
  }
  absl::StatusOr<LossSum> Backward(size_t, ParameterStore&, GradientSink&) override {
    return LossSum{};
  }
  absl::StatusOr<LossSum> Loss(size_t, ParameterStore&) override { return LossSum{}; }
  absl::Status Outputs(size_t, ParameterStore&, float*) override { return absl::OkStatus(); }
  absl::Status NextTokenLogits(const int32_t* tokens, int64_t length, ParameterStore&,
                               float* logits) override {
    longest = std::max(longest, length);
    const int64_t vocab_size = plan_.spec.vocab_size;
    std::fill_n(logits, vocab_size, -100.f);
    logits[(tokens[length - 1] + 1) % std::min<int64_t>(vocab_size, 256)] = 100.f;
    if (vocab_size > 256) logits[vocab_size - 1] = 1000.f;  // an entry that is no byte
    return absl::OkStatus();
  }
  int64_t longest = 0;

 private:
  ModelPlan plan_;
};

class NoParameters : public ParameterStore {
 public:
  absl::StatusOr<std::span<const ConstReals>> Acquire(size_t) override {
    return std::span<const ConstReals>();
  }
  void Release(size_t) override {}
};

TEST(GenerateTest, ContinuesThePromptWithinTheWindow) {
  CountingModel model(/*vocab_size=*/300);
  NoParameters none;
  GenerateOptions options;
  options.length = 5;
  int bytes = 0;
  options.on_byte = [&] { ++bytes; };
  EXPECT_EQ(Generate(model, none, "abc", options).value(), "defgh");
  EXPECT_EQ(bytes, 5);  // each is a sign of progress
  EXPECT_EQ(model.longest, 4);
  EXPECT_EQ(Generate(model, none, "", options).value(), "\x0b\x0c\x0d\x0e\x0f");
}

TEST(GenerateTest, WhenItIsToStop_ThereIsWhatThereWas) {
  CountingModel model(/*vocab_size=*/5);
  NoParameters none;
  GenerateOptions options;
  options.length = 1000;
  int bytes = 0;
  options.on_byte = [&] { ++bytes; };
  options.stopped = [&] { return bytes == 3; };
  EXPECT_EQ(Generate(model, none, "\x03", options).value(), std::string("\x04\x00\x01", 3));
}

TEST(GenerateTest, ByteThatASmallVocabularyLacks_IsRefused) {
  CountingModel model(/*vocab_size=*/5);
  NoParameters none;
  GenerateOptions options;
  options.length = 3;
  EXPECT_EQ(Generate(model, none, "\x03", options).value(), std::string("\x04\x00\x01", 3));
  EXPECT_EQ(Generate(model, none, "", options).value(), std::string("\x00\x01\x02", 3));
  EXPECT_EQ(Generate(model, none, "a", options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace dsrun::worker
