// --zero-stage.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

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

TEST_F(ResolveTest, ZeroStage2_IsInTheJobItsMemoryAndWhatItSends) {
  const std::vector<std::string> job = {
      "--dry-run",           "-H", "two.hosts", "train", "--data=text", "--global-batch-size=48",
      "--micro-batch-size=4"};
  const auto with = [&](const std::string& stage) {
    std::vector<std::string> words = job;
    words.push_back("--zero-stage=" + stage);
    return Good(words);
  };
  const Resolved one = with("1");
  const Resolved two = with("2");
  EXPECT_EQ(two.job.train().zero_stage(), 2);
  EXPECT_LT(2 * two.memory.at(0).Find("gradient_sums").bytes(),
            one.memory.at(0).Find("gradient_sums").bytes());
  EXPECT_THAT(DryRunText(two, machine_), HasSubstr("\nSent in a step, ZeRO stage 2\n"));
  // Four atoms a rank, 4 bytes each, instead of 8 bytes of their sum.
  const auto sent = [&](const Resolved& resolved) {
    const auto json = nlohmann::json::parse(DryRunJson(resolved, machine_));
    return json["sent_bytes_of_a_step"][0]["reduction"].get<int64_t>();
  };
  EXPECT_GE(sent(two), 2 * sent(one));
}

TEST_F(ResolveTest, SettingsOfStage3_AreInTheJobAndItsMemory) {
  const Resolved three =
      Good({"--dry-run", "-H", "two.hosts", "train", "--data=text", "--zero-stage=3"});
  EXPECT_EQ(three.job.train().zero_stage(), 3);
  EXPECT_THAT(DryRunText(three, machine_), HasSubstr("\nSent in a step, ZeRO stage 3\n"));
  const auto json = nlohmann::json::parse(DryRunJson(three, machine_));
  EXPECT_EQ(json["train"]["zero_stage"], 3);
  ASSERT_EQ(json["sent_bytes_of_a_step"].size(), 3u);
  EXPECT_GT(json["sent_bytes_of_a_step"][1]["gather"], 0);
  const Resolved wide =
      Good({"--dry-run", "-H", "two.hosts", "train", "--data=text", "--zero-stage=3",
            "--zero3-max-live-parameters=100000000", "--zero3-max-reuse-distance=100000000"});
  EXPECT_EQ(wide.job.train().zero().max_live_parameters(), 100000000);
  EXPECT_GT(wide.memory.at(0).Find("gathered_parameters").elements,
            three.memory.at(0).Find("gathered_parameters").elements);
}

TEST_F(ResolveTest, RecomputationUnderStage3_GathersMore) {
  const auto gathered = [&](const std::string& recompute) {
    const Resolved resolved = Good({"--dry-run", "-H", "two.hosts", "train", "--data=text",
                                    "--zero-stage=3", "--recompute=" + recompute});
    const auto json = nlohmann::json::parse(DryRunJson(resolved, machine_));
    return json["sent_bytes_of_a_step"][0]["gather"].get<int64_t>();
  };
  // All blocks in one segment: each but the last is gathered for its second forward and, as the
  // pool holds two layers, again for its backward.
  EXPECT_GT(gathered("every=100"), gathered("none"));
}

TEST_F(ResolveTest, ZeroStageThatIsNone_IsAFinding) {
  for (const char* const stage : {"-1", "4", "two"}) {
    EXPECT_THAT(Refused({"train", "--data=text", std::string("--zero-stage=") + stage}),
                HasSubstr("--zero-stage"));
  }
}

}  // namespace
}  // namespace dsrun::launcher
