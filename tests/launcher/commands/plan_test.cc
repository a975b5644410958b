// dsrun plan: from what is typed to what is answered.

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/plan/memory_plan.h"
#include "common/plan/zero_stage.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/commands/help.h"
#include "launcher/commands/plan_answer.h"
#include "launcher/commands/resolve_plan.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using testing::HasSubstr;
using testing::Not;

class PlanTest : public ResolveTest {
 protected:
  std::optional<PlanQuestion> Ask(const Args& args) {
    findings_ = Findings();
    std::vector<std::string> notes;
    const CommandLine line = ParseCommandLine(args, findings_, notes);
    EXPECT_EQ(line.command, CommandLine::Command::kPlan);
    return ResolvePlan(line, machine_, findings_, notes);
  }
  PlanAnswer Answer(const Args& args) {
    const std::optional<PlanQuestion> question = Ask(args);
    EXPECT_EQ(findings_.Render(), "");
    return AnswerPlan(question.value());
  }
  // The one finding.
  std::string RefusedPlan(const Args& args) {
    EXPECT_FALSE(Ask(args).has_value());
    EXPECT_EQ(findings_.errors().size(), 1u) << findings_.Render();
    return findings_.Render();
  }
};

TEST_F(PlanTest, NothingSaid_PlansTheDefaultModelOnThisMachine) {
  const PlanAnswer answer = Answer({"plan"});
  const SweepInput& sweep = answer.question.sweep;
  EXPECT_EQ(sweep.job.model.preset, "gpt2-nano");
  EXPECT_EQ(sweep.node_bytes, machine_.memory_available);
  EXPECT_THAT(sweep.widths, testing::ElementsAre(1, 2, 4, 8)) << "32 sequences, 4 a micro-batch";
  EXPECT_EQ(answer.table.size(), 4 * sweep.stages.size());
  ASSERT_TRUE(answer.smallest.has_value());
  EXPECT_EQ(answer.smallest->width, 1);
  const std::string text = PlanText(answer, /*terminal=*/false);
  EXPECT_THAT(text, HasSubstr("gpt2-nano: 1,853,568 parameters, 4 layers, width 192, 6 heads"));
  EXPECT_THAT(text, HasSubstr("  1 rank, --zero-stage 0: "));
  EXPECT_THAT(text, HasSubstr("8.0 GiB (available on this machine now, of "));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, Not(HasSubstr(" \n"))) << "no blanks at line ends in a file";
  EXPECT_THAT(PlanText(answer, /*terminal=*/true), HasSubstr("\x1b[1m"));
}

// The same flags, the same bytes: as the job's dry run has them for its ranks.
TEST_F(PlanTest, BytesAreThoseOfTheJob) {
  const Args flags = {
      "--model=gpt2-124m",      "--seq-length=256",     "--global-batch-size=12",
      "--micro-batch-size=2",   "--threads-per-rank=2", "--sums=fast",
      "--optimizer=sgd",        "--freeze=wpe",         "--micro-batches-per-atom=2",
      "--bucket-bytes=1000000", "--recompute=every=3",  "--zero-stage=0"};
  Args plan = {"plan", "--widths=3"};
  plan.insert(plan.end(), flags.begin(), flags.end());
  Args train = {"--dry-run", "-H", "two.hosts", "train", "--data=text"};
  train.insert(train.end(), flags.begin(), flags.end());
  const PlanAnswer answer = Answer(plan);
  const Resolved job = Good(train);
  ASSERT_EQ(job.memory.size(), 3u);
  ASSERT_EQ(answer.table.size(), 1u);
  int64_t most = 0;
  for (const MemoryPlan& rank : job.memory) most = std::max(most, rank.total_bytes());
  int64_t planned = 0;
  for (const PlannedBuffer& line : answer.lines) {
    if (line.group != "libraries") planned += line.bytes();
  }
  EXPECT_EQ(planned, most);
  EXPECT_THAT(PlanText(answer, false), HasSubstr(" frozen tensor"));
  EXPECT_FALSE(answer.scaled.has_value()) << "a shape of which nobody knows what is frozen";
}

TEST_F(PlanTest, Gpt3_IsPlannedWide) {
  const PlanAnswer answer =
      Answer({"plan", "--model=gpt3-175b", "--memory=2TiB", "--widths=1,512", "--sums=fast"});
  ASSERT_EQ(answer.table.size(), 2 * answer.question.sweep.stages.size());
  EXPECT_GT(answer.table.front().rank_bytes, int64_t{2} << 40) << "16 bytes and more of each";
  ASSERT_TRUE(answer.smallest.has_value());
  EXPECT_EQ(answer.smallest->width, 512);
  const std::string text = PlanText(answer, false);
  EXPECT_THAT(text, HasSubstr("gpt3-175b: 174,604,259,328 parameters, 96 layers, width 12288"));
  EXPECT_THAT(text, HasSubstr("attention is dense in every layer"));
  EXPECT_THAT(text, HasSubstr("\n     512  "));
}

TEST_F(PlanTest, NothingFits_SaysWhatTakesLeast) {
  const PlanAnswer answer = Answer({"plan", "--memory=1MiB"});
  EXPECT_FALSE(answer.smallest.has_value());
  const std::string text = PlanText(answer, false);
  EXPECT_THAT(text, HasSubstr("none of these; what takes least is "));
  EXPECT_THAT(text, HasSubstr("  preset  none\n  scaled  none\n"));
  EXPECT_THAT(text, Not(HasSubstr("*\n")));
}

TEST_F(PlanTest, Text_HasFormulasAndTheTopConsumers) {
  const std::string text = PlanText(Answer({"plan", "--zero-stage=1", "--memory=1GiB"}), false);
  EXPECT_THAT(text, HasSubstr("\nWhat takes most of its largest rank (1 rank, --zero-stage 1)\n"));
  EXPECT_THAT(text, HasSubstr("gradient_sums 8, reduced_gradients 4/N, optimizer.exp_avg 4/N"));
  EXPECT_THAT(text, HasSubstr("activations.normed = layers x batch x seq x width, f32"));
  EXPECT_THAT(text, HasSubstr("\nActivations of a micro-batch of 4 x 128 tokens: "));
  EXPECT_THAT(text, Not(HasSubstr("stage 0")));
}

TEST_F(PlanTest, Json_IsWhatTheTextSays) {
  const PlanAnswer answer = Answer({"plan", "--memory=64GiB", "--ranks-per-node=4", "--json"});
  EXPECT_TRUE(answer.question.json);
  const auto json = nlohmann::json::parse(PlanJson(answer));
  EXPECT_EQ(json["model"]["parameters"], 1853568);
  EXPECT_EQ(json["memory_bytes"], int64_t{64} << 30);
  EXPECT_EQ(json["ranks_per_node"], 4);
  ASSERT_EQ(json["table"].size(), answer.table.size());
  for (size_t i = 0; i < answer.table.size(); ++i) {
    EXPECT_EQ(json["table"][i]["rank_bytes"], answer.table[i].rank_bytes);
    EXPECT_EQ(json["table"][i]["fits"], answer.table[i].fits);
  }
  EXPECT_EQ(json["smallest_that_fits"]["ranks"], 1);
  int64_t total = 0;
  for (const auto& line : json["shown"]["lines"]) total += line["bytes"].get<int64_t>();
  EXPECT_EQ(total, json["shown"]["rank_bytes"]);
  EXPECT_EQ(json["bytes_per_parameter"].size(), answer.question.sweep.stages.size());
  EXPECT_EQ(json["largest_preset"]["preset"], answer.preset->preset);
}

TEST_F(PlanTest, RecomputationThatIsSaid_IsTheOnlyOne) {
  const PlanAnswer answer = Answer({"plan", "--recompute=all", "--memory=1MiB"});
  for (const SweepCell& cell : answer.table) EXPECT_EQ(cell.recompute.every, 1);
  EXPECT_FALSE(answer.question.sweep.may_recompute);
}

TEST_F(PlanTest, WhatIsWrong_IsOneFinding) {
  EXPECT_THAT(RefusedPlan({"plan", "--model=gpt2-124"}), HasSubstr("no model preset"));
  EXPECT_THAT(RefusedPlan({"plan", "--memory=0"}), HasSubstr("expected a size above 0"));
  EXPECT_THAT(RefusedPlan({"plan", "--memory=lots"}), HasSubstr("such as 80GiB or 24GB, got"));
  EXPECT_THAT(RefusedPlan({"plan", "--widths=1,9"}),
              HasSubstr("--widths: data-parallel width 9 is more than the 8 micro-batches"));
  for (const char* widths : {"", "0", "1,", "1,,2", "two", "-1", "1 2", "99999999999999999999"}) {
    EXPECT_THAT(RefusedPlan({"plan", std::string("--widths=") + widths}),
                HasSubstr("--widths: expected numbers of ranks from 1 to "))
        << widths;
  }
  EXPECT_THAT(RefusedPlan({"plan", "--ranks-per-node=0"}), HasSubstr("--ranks-per-node"));
  EXPECT_THAT(RefusedPlan({"plan", "--load=runs/a"}), HasSubstr("no checkpoint is read"));
  EXPECT_THAT(RefusedPlan({"plan", "--deepspeed_config=ds.json"}),
              HasSubstr("--deepspeed_config: no JSON is read for a plan; give its sizes as flags"));
  EXPECT_THAT(RefusedPlan({"plan", "--gradient-accumulation-steps=2"}),
              HasSubstr("give --global-batch-size"));
  EXPECT_THAT(RefusedPlan({"plan", "--hostfile=two.hosts"}), HasSubstr("a plan starts nothing"));
  EXPECT_THAT(RefusedPlan({"--dry-run", "plan"}), HasSubstr("leave out what stands before"));
  EXPECT_THAT(RefusedPlan({"plan", "--width=1"}), HasSubstr("did you mean --widths?"));
  EXPECT_THAT(RefusedPlan({"plan", "gpt2-nano"}), HasSubstr("named with --model NAME"));
  EXPECT_THAT(RefusedPlan({"plan", "--json=1"}), HasSubstr("takes no value"));
  EXPECT_THAT(RefusedPlan({"plan", "--micro-batch-size=3"}), HasSubstr("--global-batch-size"));
  machine_.memory_available = 0;
  EXPECT_THAT(RefusedPlan({"plan"}), HasSubstr("--memory: how much this machine has"));
}

TEST_F(PlanTest, FlagsOfTrainThatNoByteDependsOn_MayStandThere) {
  const PlanAnswer plain = Answer({"plan"});
  const PlanAnswer said =
      Answer({"plan", "--data=nowhere", "--lr=1", "--train-iters=9", "--tag=a"});
  EXPECT_EQ(plain.table.front().rank_bytes, said.table.front().rank_bytes);
}

TEST_F(PlanTest, Help_IsThereOnEveryWay) {
  for (const Args& args : {Args{"plan", "--help"}, Args{"plan", "-h"}, Args{"help", "plan"}}) {
    findings_ = Findings();
    std::vector<std::string> notes;
    const CommandLine line = ParseCommandLine(args, findings_, notes);
    EXPECT_EQ(line.command, CommandLine::Command::kHelp);
    EXPECT_TRUE(line.help_plan);
    EXPECT_EQ(findings_.Render(), "");
  }
  const std::string help = PlanHelpText();
  for (const char* flag : {"--memory SIZE", "--widths N,N,...", "--ranks-per-node N", "--json",
                           "--micro-batch-size N", "--zero-stage", "--recompute", "--sums",
                           "--optimizer NAME", "--model PRESET", "dsrun plan --model gpt3-175b"}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
  EXPECT_THAT(help, Not(HasSubstr("--data")));
  EXPECT_THAT(help, Not(HasSubstr("\n  --lr ")));
}

}  // namespace
}  // namespace dsrun::launcher
