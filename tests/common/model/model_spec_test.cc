#include "common/model/model_spec.h"

#include "common/model/model_plan.h"
#include "common/model/presets.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(PresetTest, PublishedParameterCounts) {
  const auto count = [](const char* name) { return ParameterCount(*FindPreset(name)); };
  EXPECT_EQ(count("gpt2-nano"), 1853568);
  EXPECT_EQ(count("gpt2-124m"), 124439808);
  EXPECT_EQ(count("gpt2-350m"), 354823168);
  EXPECT_EQ(count("gpt2-774m"), 774030080);
  EXPECT_EQ(count("gpt2-1558m"), 1557611200);
  EXPECT_EQ(count("gpt3-175b"), 174604259328) << "175 billion";
}

TEST(PresetTest, EveryPresetIsValidAndHasDefaults) {
  for (const std::string& name : PresetNames()) {
    EXPECT_TRUE(Validate(*FindPreset(name)).ok()) << name;
    const PresetDefaults defaults = *FindPresetDefaults(name);
    EXPECT_EQ(defaults.global_batch_size % defaults.micro_batch_size, 0) << name;
  }
}

TEST(PresetTest, UnknownNameGetsAllThatThereAre) {
  const absl::Status status = FindPreset("gpt2-nanoo").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()),
            "no model preset \"gpt2-nanoo\"; there are gpt2-nano, gpt2-124m, gpt2-350m, gpt2-774m, "
            "gpt2-1558m, gpt3-175b, llama-nano, llama-135m, llama-1b, llama-7b, llama-70b");
}

TEST(ValidateTest, NamesEveryFinding) {
  ModelSpec spec = *FindPreset("gpt2-nano");
  spec.num_layers = 0;
  spec.hidden_size = -3;
  const std::string text(Validate(spec).message());
  EXPECT_NE(text.find("num-layers must be at least 1, got 0"), std::string::npos) << text;
  EXPECT_NE(text.find("hidden-size must be at least 1, got -3"), std::string::npos) << text;
}

TEST(ValidateTest, VocabularyOfLessThanTwo_IsRefused) {
  ModelSpec spec = *FindPreset("gpt2-nano");
  spec.vocab_size = 1;
  EXPECT_EQ(std::string(Validate(spec).message()), "vocab-size must be at least 2, got 1");
  spec.vocab_size = 2;
  EXPECT_TRUE(Validate(spec).ok());
}

TEST(ValidateTest, SizesBeyondAllReason_AreRefusedAtOnce) {
  ModelSpec spec = *FindPreset("gpt2-nano");
  spec.hidden_size = int64_t{1} << 40;
  spec.num_layers = 1'000'000'000;
  const std::string text(Validate(spec).message());
  EXPECT_NE(text.find("hidden-size must be at most 1000000, got 1099511627776"), std::string::npos);
  EXPECT_NE(text.find("num-layers must be at most 10000, got 1000000000"), std::string::npos);
  spec.hidden_size = 999'996;
  spec.num_layers = 10'000;
  EXPECT_NE(std::string(Validate(spec).message()).find("parameters; at most 1e+13"),
            std::string::npos);
}

TEST(ValidateTest, HeadsMustDivideTheWidth) {
  ModelSpec spec = *FindPreset("gpt2-nano");
  spec.num_attention_heads = 7;
  EXPECT_EQ(std::string(Validate(spec).message()),
            "hidden-size 192 is not a multiple of num-attention-heads 7");
}

}  // namespace
}  // namespace dsrun
