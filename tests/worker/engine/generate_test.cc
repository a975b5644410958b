#include "worker/engine/generate.h"

#include <algorithm>
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
  int64_t gradient_size() const override { return 0; }
  absl::StatusOr<LossSum> Forward(const float*, const int32_t*, const int32_t*,
                                  const RangeFn&) override {
    return LossSum{};
  }
  absl::Status Backward(const float*, float*, const RangeFn&) override { return absl::OkStatus(); }
  void NextTokenLogits(const float*, const int32_t* tokens, int64_t length,
                       float* logits) override {
    longest = std::max(longest, length);
    std::fill_n(logits, 300, -100.f);
    logits[(tokens[length - 1] + 1) % 256] = 100.f;
    logits[299] = 1000.f;  // an entry that is no byte
  }
  int64_t longest = 0;
};

TEST(GenerateTest, ContinuesThePromptWithinTheWindow) {
  CountingModel model;
  const ModelSpec spec{"", 1, 8, 1, /*seq_length=*/4, /*vocab_size=*/300};
  GenerateOptions options;
  options.length = 5;
  int bytes = 0;
  options.on_byte = [&] { ++bytes; };
  EXPECT_EQ(Generate(model, spec, nullptr, "abc", options), "defgh");
  EXPECT_EQ(bytes, 5);  // each is a sign of progress
  EXPECT_EQ(model.longest, 4);
  EXPECT_EQ(Generate(model, spec, nullptr, "", options), "\x0b\x0c\x0d\x0e\x0f");
}

}  // namespace
}  // namespace dsrun::worker
