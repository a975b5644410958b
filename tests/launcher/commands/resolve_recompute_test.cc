// --recompute.

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/commands/dry_run.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST_F(ResolveTest, Recompute_IsNoneUnlessAskedFor) {
  EXPECT_FALSE(Good({"train", "--data=text"}).job.train().has_recompute());
  EXPECT_FALSE(Good({"train", "--data=text", "--recompute=none"}).job.train().has_recompute());
  const auto recompute = [&](const std::string& flag) {
    return Good({"train", "--data=text", flag}).job.train().recompute();
  };
  EXPECT_EQ(recompute("--recompute=all").every(), 1);
  EXPECT_EQ(recompute("--recompute=every=3").every(), 3);
  EXPECT_EQ(recompute("--recompute=budget=1000000000").budget_bytes(), 1000000000);
  EXPECT_EQ(recompute("--recompute=budget=1000000000").every(), 0);
}

TEST_F(ResolveTest, Recompute_OfSomethingElse_IsAFinding) {
  for (const std::string wrong : {"some", "every=0", "every=", "every=2x", "budget=-1",
                                  "budget=99999999999999999999", "every"}) {
    EXPECT_THAT(Refused({"train", "--data=text", "--recompute=" + wrong}),
                HasSubstr("--recompute: expected none, all, every=K (layers) or budget=BYTES, "
                          "got \"" +
                          wrong + "\""));
  }
  EXPECT_THAT(Refused({"train", "--data=text", "--recompute=budget=10"}),
              HasSubstr("--recompute: a budget of 10 B for kept activations is less than the "
                        "inputs of all layers"));
}

TEST_F(ResolveTest, Recompute_AsOthersSayIt) {
  EXPECT_THAT(Refused({"train", "--data=text", "--partition-activations"}),
              HasSubstr("model-parallel"));
  EXPECT_THAT(Refused({"train", "--data=text", "--recompute-granularity=full"}),
              HasSubstr("--recompute all"));
  Good({"train", "--data=text", "--recompute=all", "--contiguous-checkpointing"});
}

TEST_F(ResolveTest, Recompute_IsInTheTableOfADryRunAndItsMemory) {
  const Resolved plain = Good({"--dry-run", "train", "--data=text"});
  const Resolved all = Good({"--dry-run", "train", "--data=text", "--recompute=all"});
  EXPECT_LT(all.memory.at(0).total_bytes(), plain.memory.at(0).total_bytes());
  EXPECT_THAT(DryRunText(all, machine_), HasSubstr("4 of 4 layers play forward again"));
  EXPECT_THAT(DryRunText(all, machine_), HasSubstr("FLOP a step more ("));
  EXPECT_THAT(DryRunText(plain, machine_), Not(HasSubstr("play forward again")));
  EXPECT_THAT(DryRunJson(all, machine_), HasSubstr("\"recompute\": {"));
}

}  // namespace
}  // namespace dsrun::launcher
