#include "common/model/llama.h"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "common/model/model_plan.h"
#include "common/model/model_spec.h"
#include "common/model/presets.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(LlamaTest, PublishedParameterCounts) {
  const auto count = [](const char* name) { return ParameterCount(*FindPreset(name)); };
  EXPECT_EQ(count("llama-nano"), 1'623'744);
  EXPECT_EQ(count("llama-135m"), 134'515'008);
  EXPECT_EQ(count("llama-1b"), 1'235'814'400);
  EXPECT_EQ(count("llama-7b"), 6'738'415'616);
  EXPECT_EQ(count("llama-70b"), 68'976'648'192);
}

ModelSpec Small() {
  ModelSpec spec{"small", 1, 24, 4, 8, 50};
  spec.family = "llama";
  spec.query_groups = 2;
  spec.head_channels = 10;
  spec.ffn_hidden_size = 36;
  spec.norm_epsilon = 1e-6;
  spec.rope_base = 10000;
  return spec;
}

// "model.norm.weight [24]".
std::vector<std::string> Names(const ModelSpec& spec) {
  std::vector<std::string> names;
  for (const LogicalTensor& tensor : LogicalTensors(spec)) {
    std::string shape;
    for (const int64_t extent : tensor.shape) {
      shape += (shape.empty() ? " [" : ",") + std::to_string(extent);
    }
    names.push_back(tensor.name + shape + "]");
  }
  return names;
}

TEST(LlamaTest, TensorsHaveNamesAndOrientationOfHuggingFace) {
  EXPECT_EQ(Names(Small()),
            (std::vector<std::string>{
                "model.embed_tokens.weight [50,24]", "model.layers.0.input_layernorm.weight [24]",
                "model.layers.0.self_attn.q_proj.weight [40,24]",
                "model.layers.0.self_attn.k_proj.weight [20,24]",
                "model.layers.0.self_attn.v_proj.weight [20,24]",
                "model.layers.0.self_attn.o_proj.weight [24,40]",
                "model.layers.0.post_attention_layernorm.weight [24]",
                "model.layers.0.mlp.gate_proj.weight [36,24]",
                "model.layers.0.mlp.up_proj.weight [36,24]",
                "model.layers.0.mlp.down_proj.weight [24,36]", "model.norm.weight [24]"}));
  ModelSpec spec = Small();
  spec.untied_output = true;
  EXPECT_EQ(Names(spec).back(), "lm_head.weight [50,24]");
}

TEST(LlamaTest, BiasesAndNormsOfQueriesAndKeys_AreThereWhereTheSpecHasThem) {
  ModelSpec spec = Small();
  spec.qkv_bias = true;
  spec.attention_out_bias = true;
  spec.mlp_bias = true;
  spec.qk_norm = true;
  const std::vector<std::string> names = Names(spec);
  const std::string at = "model.layers.0.";
  for (const std::string& name :
       {at + "self_attn.q_proj.bias [40]", at + "self_attn.k_proj.bias [20]",
        at + "self_attn.v_proj.bias [20]", at + "self_attn.o_proj.bias [24]",
        at + "self_attn.q_norm.weight [10]", at + "self_attn.k_norm.weight [10]",
        at + "mlp.gate_proj.bias [36]", at + "mlp.up_proj.bias [36]",
        at + "mlp.down_proj.bias [24]"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  }
  EXPECT_EQ(names.size(), Names(Small()).size() + 9);
}

TEST(LlamaTest, MatricesDecay_NormsAreOnes_BiasesAreZeros) {
  ModelSpec spec = Small();
  spec.qkv_bias = true;
  for (const LogicalTensor& tensor : LogicalTensors(spec)) {
    EXPECT_EQ(tensor.weight_decay, tensor.shape.size() == 2) << tensor.name;
    const Init init = tensor.shape.size() == 2        ? Init::kNormal
                      : tensor.name.ends_with("bias") ? Init::kZeros
                                                      : Init::kOnes;
    EXPECT_EQ(tensor.init, init) << tensor.name;
    EXPECT_EQ(tensor.stddev, init == Init::kNormal ? 0.02 : 0) << tensor.name;
  }
}

TEST(LlamaTest, Flops_CountWhatIsMultiplied) {
  ModelSpec spec = Small();
  // Matrices of 24 x (40 + 20 + 20), 40 x 24, 3 of 24 x 36, the table of 50 x 24; scores of 40
  // channels with half of 8 keys, twice. Backward costs twice that.
  const double products = 24 * 80 + 40 * 24 + 3 * 24 * 36 + 50 * 24;
  EXPECT_EQ(TrainFlops(spec, 1), 3 * 2 * (products + 2 * 40 * 4));
  spec.window = 4;  // of 8: 4 (1 - 4 / 16) = 3 keys on average
  EXPECT_EQ(TrainFlops(spec, 1), 3 * 2 * (products + 2 * 40 * 3));
}

std::string Found(const std::function<void(ModelSpec& spec)>& change) {
  ModelSpec spec = Small();
  change(spec);
  return std::string(Validate(spec).message());
}

TEST(LlamaTest, Validate_NamesWhatDoesNotFit) {
  EXPECT_EQ(Found([](ModelSpec&) {}), "");
  EXPECT_EQ(Found([](ModelSpec& spec) { spec.query_groups = 3; }),
            "num-attention-heads 4 is not a multiple of num-query-groups 3");
  EXPECT_EQ(Found([](ModelSpec& spec) { spec.head_channels = 9; }),
            "a head must have an even width to be rotated, got 9 (kv-channels)");
  EXPECT_EQ(Found([](ModelSpec& spec) { spec.ffn_hidden_size = 0; }),
            "ffn-hidden-size must be at least 1, got 0");
  EXPECT_EQ(Found([](ModelSpec& spec) { spec.norm_epsilon = 0; }),
            "norm-epsilon must be above 1e-30 and at most 1, got 0");
  EXPECT_EQ(Found([](ModelSpec& spec) {
              spec.rope_scaling = "linear";
              spec.rope_factor = 1e-30;
            }),
            "rope-scaling-factor must be at least 1 and at most 1e6, got 1e-30");
  EXPECT_THAT(Found([](ModelSpec& spec) {  // few parameters, and more bytes than 64 bits count
                spec.hidden_size = 1;
                spec.num_attention_heads = spec.query_groups = 100'000;
                spec.head_channels = 100'000;
                spec.seq_length = 10'000'000;
              }),
              testing::HasSubstr("numbers of one sequence; at most 1e+16 are planned for"));
  EXPECT_EQ(Found([](ModelSpec& spec) { spec.rope_scaling = "dynamic"; }),
            "rope-scaling must be linear, llama3 or yarn, got \"dynamic\"");
  EXPECT_EQ(Found([](ModelSpec& spec) { spec.rope_scaling = "linear"; }),
            "rope-scaling and rope-scaling-factor belong together, got \"linear\" and 0");
  EXPECT_EQ(Found([](ModelSpec& spec) {
              spec.rope_scaling = "yarn";
              spec.rope_factor = 4;
              spec.rope_low_turns = 1;
              spec.rope_high_turns = 32;
            }),
            "rope-original-length must be at least 1, got 0");
  EXPECT_EQ(Found([](ModelSpec& spec) { spec.rope_magnitude = 1; }),
            "rope-magnitude belongs to the rope-scaling yarn alone");
  EXPECT_EQ(Found([](ModelSpec& spec) { spec.family = "mamba"; }),
            "there is no family \"mamba\" of models");
}

TEST(LlamaTest, Validate_RefusesForGpt2WhatItHasNot) {
  ModelSpec spec = *FindPreset("gpt2-nano");
  spec.query_groups = 2;
  spec.qk_norm = true;
  EXPECT_EQ(std::string(Validate(spec).message()),
            "models of the family gpt2 have no num-query-groups, got 2; models of the family gpt2 "
            "have no qk-layernorm, got yes");
}

TEST(LlamaTest, Canonical_HasOneSpecOfAShape) {
  ModelSpec spec = Small();
  spec.query_groups = 4;
  spec.head_channels = 6;
  ModelSpec plain = spec;
  plain.query_groups = 0;
  plain.head_channels = 0;
  EXPECT_EQ(Canonical(spec), plain);
  EXPECT_EQ(spec.heads_of_keys(), plain.heads_of_keys());
  EXPECT_EQ(spec.head_size(), plain.head_size());
  EXPECT_EQ(Canonical(Small()), Small());
}

}  // namespace
}  // namespace dsrun
