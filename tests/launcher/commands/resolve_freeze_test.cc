// --freeze.

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/commands/dry_run.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using testing::HasSubstr;
using testing::Not;

Args Frozen(const Resolved& resolved) {
  return {resolved.job.train().frozen().begin(), resolved.job.train().frozen().end()};
}

TEST_F(ResolveTest, Freeze_TakesEveryTensorThatAnExpressionMatches) {
  EXPECT_EQ(Frozen(Good({"train", "--data=text"})), Args{});
  EXPECT_EQ(Frozen(Good({"train", "--data=text", "--freeze=^wte", "--freeze", "wpe|wte"})),
            (Args{"wte.weight", "wpe.weight"}));
  EXPECT_EQ(Frozen(Good({"train", "--data=text", "--freeze=^h\\.0\\..*ln_1"})),
            (Args{"h.0.ln_1.weight", "h.0.ln_1.bias"}));
}

TEST_F(ResolveTest, Freeze_OfNothingOrEverything_IsAFinding) {
  EXPECT_THAT(Refused({"train", "--data=text", "--freeze=wte.wieght"}),
              HasSubstr("--freeze: no tensor of the model matches \"wte.wieght\"; did you mean "
                        "wte.weight?"));
  EXPECT_THAT(Refused({"train", "--data=text", "--freeze=zzzzzzzzzzzz"}),
              HasSubstr("there are wte.weight, wpe.weight"));
  EXPECT_THAT(Refused({"train", "--data=text", "--freeze=(h"}),
              HasSubstr("--freeze: expected a regular expression"));
  EXPECT_THAT(Refused({"train", "--data=text", "--freeze=."}), HasSubstr("nothing is left"));
  const std::string deep(20'000, '(');
  EXPECT_THAT(Refused({"train", "--data=text", "--freeze=" + deep}),
              HasSubstr("it has more than 1000 bytes"));
  // Ends.
  EXPECT_THAT(Refused({"train", "--data=text", "--freeze=(.*)*(.*)*(.*)*@"}),
              HasSubstr("no tensor of the model matches"));
}

TEST_F(ResolveTest, Freeze_IsInTheTableOfADryRunAndItsMemory) {
  const auto optimizer = [](const Resolved& resolved) {
    return resolved.memory.at(0).Find("optimizer.exp_avg").bytes();
  };
  const Resolved all = Good({"--dry-run", "train", "--data=text"});
  const Resolved some = Good({"--dry-run", "train", "--data=text", "--freeze=^h"});
  EXPECT_LT(optimizer(some), optimizer(all) / 4);
  EXPECT_THAT(DryRunText(some, machine_), HasSubstr("frozen: h.0.ln_1.weight, h.0.ln_1.bias, "));
  const Resolved one = Good({"--dry-run", "train", "--data=text", "--freeze=^wpe"});
  EXPECT_THAT(DryRunText(one, machine_), HasSubstr("1 tensor frozen: wpe.weight\n"));
  EXPECT_THAT(DryRunText(all, machine_), Not(HasSubstr("frozen")));
}

}  // namespace
}  // namespace dsrun::launcher
