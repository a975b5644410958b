// --zero-stage.

#include <string>

#include "common/plan/zero_stage.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/commands/dry_run.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using testing::HasSubstr;

TEST_F(ResolveTest, ZeroStage_IsInTheJobAndItsMemory) {
  const auto moments = [](const Resolved& resolved) {
    return resolved.memory.at(0).Find("optimizer.exp_avg").elements;
  };
  const Resolved plain = Good({"--dry-run", "-H", "two.hosts", "train", "--data=text"});
  EXPECT_FALSE(plain.job.train().has_zero_stage());
  const Resolved one =
      Good({"--dry-run", "-H", "two.hosts", "train", "--data=text", "--zero-stage=1"});
  EXPECT_EQ(one.job.train().zero_stage(), 1);
  EXPECT_EQ(moments(one), moments(plain));
  const Resolved none =
      Good({"--dry-run", "-H", "two.hosts", "train", "--data=text", "--zero-stage=0"});
  EXPECT_TRUE(none.job.train().has_zero_stage());
  EXPECT_EQ(none.job.train().zero_stage(), 0);
  EXPECT_GT(moments(none), 2 * moments(plain)) << "of three ranks";
  EXPECT_EQ(moments(none), none.memory.at(1).Find("optimizer.exp_avg").elements);
  EXPECT_THAT(DryRunText(none, machine_), HasSubstr("\nSent in a step, ZeRO stage 0\n"));
  EXPECT_THAT(DryRunText(plain, machine_), HasSubstr("\nSent in a step, ZeRO stage 1\n"));
}

TEST_F(ResolveTest, ZeroStageThatIsNone_IsAFinding) {
  const std::string next = std::to_string(kLastBuiltZeroStage + 1);
  EXPECT_THAT(Refused({"train", "--data=text", "--zero-stage=" + next}),
              HasSubstr("--zero-stage: stage " + next + " is not built yet"));
  for (const char* const stage : {"-1", "4", "two"}) {
    EXPECT_THAT(Refused({"train", "--data=text", std::string("--zero-stage=") + stage}),
                HasSubstr("--zero-stage"));
  }
}

}  // namespace
}  // namespace dsrun::launcher
