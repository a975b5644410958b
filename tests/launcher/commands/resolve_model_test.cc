// What becomes of --model and the flags of a shape.

#include <string>

#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

class ResolveModelTest : public ResolveTest {
 protected:
  ModelSpec Model(Args more) {
    more.insert(more.begin(), {"train", "--data=text"});
    return FromProto(Good(more).job.train().model());
  }
  std::string RefusedModel(Args more) {
    more.insert(more.begin(), {"train", "--data=text"});
    return Refused(more);
  }
};

TEST_F(ResolveModelTest, APreset_IsWhatItIs) {
  for (const char* name : {"gpt2-nano", "llama-nano"}) {
    EXPECT_EQ(Model({std::string("--model=") + name}), FindPreset(name).value()) << name;
  }
}

TEST_F(ResolveModelTest, EveryFlagOfAShape_IsTaken) {
  ModelSpec expected = FindPreset("llama-nano").value();
  expected.preset = "custom";
  expected.num_attention_heads = 4;
  expected.query_groups = 1;
  expected.head_channels = 20;
  expected.ffn_hidden_size = 100;
  expected.window = 16;
  expected.norm_epsilon = 1e-6;
  expected.untied_output = true;
  expected.qkv_bias = true;
  expected.qk_norm = true;
  expected.rope_base = 5000;
  expected.rope_scaling = "yarn";
  expected.rope_factor = 4;
  expected.rope_low_turns = 1;
  expected.rope_high_turns = 32;
  expected.rope_original_length = 32;
  EXPECT_EQ(Model({"--model=llama-nano", "--num-attention-heads=4", "--num-query-groups=1",
                   "--kv-channels=20", "--ffn-hidden-size=100", "--window-size=16",
                   "--norm-epsilon=1e-6", "--untie-embeddings-and-output-weights", "--add-qkv-bias",
                   "--qk-layernorm", "--rotary-base=5000", "--rope-scaling=yarn",
                   "--rope-scaling-factor=4", "--rope-original-length=32"}),
            expected);
}

TEST_F(ResolveModelTest, WithAnotherWidth_TheMlpIsEightThirdsOfItUnlessItIsGiven) {
  // The preset's own width is no other. (It does not fit here; that is another finding.)
  const Resolved same = Run({"train", "--data=text", "--model=llama-1b", "--hidden-size=2048"});
  EXPECT_EQ(FromProto(same.job.train().model()), FindPreset("llama-1b").value());
  EXPECT_EQ(Model({"--model=llama-nano", "--hidden-size=96"}).ffn_hidden_size, 256);
  EXPECT_EQ(
      Model({"--model=llama-nano", "--hidden-size=96", "--ffn-hidden-size=7"}).ffn_hidden_size, 7);
}

TEST_F(ResolveModelTest, WhatSaysTheSame_IsTheSameModel) {
  EXPECT_EQ(Model({"--model=llama-nano", "--kv-channels=32", "--num-query-groups=2"}),
            FindPreset("llama-nano").value());
  EXPECT_EQ(Model({"--model=llama-nano", "--num-query-groups=6"}).query_groups, 0);
}

TEST_F(ResolveModelTest, AFlagOfAnotherFamily_IsRefused) {
  EXPECT_EQ(RefusedModel({"--model=gpt2-nano", "--num-query-groups=2"}),
            "--model: models of the family gpt2 have no num-query-groups, got 2\n");
}

TEST_F(ResolveModelTest, WhatDoesNotFit_IsRefusedWithOneMessage) {
  EXPECT_EQ(RefusedModel({"--model=llama-nano", "--num-query-groups=4"}),
            "--model: num-attention-heads 6 is not a multiple of num-query-groups 4\n");
  EXPECT_EQ(
      RefusedModel({"--model=llama-nano", "--rope-scaling=linear"}),
      "--model: rope-scaling and rope-scaling-factor belong together, got \"linear\" and 0\n");
  EXPECT_EQ(RefusedModel({"--model=llama-nano", "--rope-scaling=ntk"}),
            "--rope-scaling: expected none, linear, llama3 or yarn, got \"ntk\"\n");
}

}  // namespace
}  // namespace dsrun::launcher
