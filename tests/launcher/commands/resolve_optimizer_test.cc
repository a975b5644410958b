// --optimizer, its parameters, and parameter groups.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "launcher/commands/dry_run.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using testing::HasSubstr;
using testing::Not;

using ResolveOptimizerTest = DryRunTest;

TEST_F(ResolveOptimizerTest, WithoutFlags_IsAdamW) {
  const proto::TrainSpec spec = Spec({});
  EXPECT_EQ(spec.optimizer().name(), "adamw");
  EXPECT_EQ(spec.adam_beta1(), 0.9);
  EXPECT_EQ(spec.adam_beta2(), 0.95);
  EXPECT_EQ(spec.adam_eps(), 1e-8);
  EXPECT_EQ(spec.weight_decay(), 0.1);
  EXPECT_THAT(Text({}),
              HasSubstr("optimizer     adamw, betas 0.9 0.95, eps 1e-08, weight decay 0.1\n"));
}

TEST_F(ResolveOptimizerTest, Params_AreTheTables_AndThoseGiven) {
  const proto::TrainSpec sgd =
      Spec({"--optimizer=sgd", "--optimizer-param=momentum=0.9,nesterov=true"});
  EXPECT_EQ(sgd.optimizer().params().at("momentum"), 0.9);
  EXPECT_EQ(sgd.optimizer().params().at("nesterov"), 1);
  EXPECT_EQ(sgd.weight_decay(), 0);
  EXPECT_THAT(Text({"--optimizer=sgd", "--weight-decay=0.5"}),
              HasSubstr("sgd, momentum 0, nesterov 0, weight decay 0.5\n"));
  const proto::TrainSpec lion = Spec({"--optimizer=lion", "--adam-beta2=0.98"});
  EXPECT_EQ(lion.optimizer().params().at("beta1"), 0.9);
  EXPECT_EQ(lion.optimizer().params().at("beta2"), 0.98);
  EXPECT_THAT(Text({"--optimizer=lamb", "--optimizer-param", "max_coeff=5"}),
              HasSubstr("lamb, betas 0.9 0.999, eps 1e-08, min_coeff 0.01, max_coeff 5, "));
}

TEST_F(ResolveOptimizerTest, WhatIsNotThere_OrOutOfBounds_IsAFinding) {
  const auto refused = [&](const Args& more) { return Refused(With(more)); };
  EXPECT_THAT(refused({"--optimizer=adamW2"}),
              HasSubstr("--optimizer: expected one of adamw, adam, lion, lamb, adagrad, sgd, "
                        "muon, got "
                        "\"adamW2\"; did you mean adamw?"));
  EXPECT_THAT(refused({"--optimizer=sgd", "--optimizer-param=momentun=1"}),
              HasSubstr("--optimizer-param: sgd has no parameter \"momentun\"; did you mean "
                        "momentum?"));
  EXPECT_THAT(refused({"--optimizer=sgd", "--optimizer-param=momentum=1"}),
              HasSubstr("momentum: expected a number from 0 on, below 1, got 1"));
  EXPECT_THAT(refused({"--optimizer=sgd", "--optimizer-param=nesterov=1"}),
              HasSubstr("nesterov: expected a momentum above 0"));
  EXPECT_THAT(refused({"--optimizer=sgd", "--adam-beta1=0.5"}),
              HasSubstr("--adam-beta1: has no effect with --optimizer sgd"));
  EXPECT_THAT(refused({"--adam-beta1=0.5", "--optimizer-param=beta1=0.5"}),
              HasSubstr("beta1 is given twice"));
  EXPECT_THAT(refused({"--optimizer-param=weight_decay=1"}),
              HasSubstr("weight_decay has a flag of its own: --weight-decay"));
  EXPECT_THAT(refused({"--optimizer-param=beta1=x"}),
              HasSubstr("beta1: expected a number, got \"x\""));
  EXPECT_THAT(refused({"--optimizer-param=beta1"}), HasSubstr("expected KEY=VALUE, got"));
  EXPECT_THAT(refused({"--optimizer=lamb", "--optimizer-param=min_coeff=11"}),
              HasSubstr("min_coeff: expected at most max_coeff (10), got 11"));
}

TEST_F(ResolveOptimizerTest, Muon_IsOfDeepSpeedsNames_WithMethodsByWord) {
  const proto::TrainSpec spec = Spec({"--optimizer=muon"});
  EXPECT_EQ(spec.optimizer().params().at("momentum"), 0.95);
  EXPECT_EQ(spec.optimizer().params().at("ns_method"), 0);
  EXPECT_EQ(spec.optimizer().params().at("eps"), 1e-10);
  EXPECT_FALSE(spec.optimizer().params().contains("muon_lr"));
  EXPECT_EQ(spec.weight_decay(), 0);
  const Args args = {"--optimizer=muon", "--lr=0.001",
                     "--optimizer-param=ns_method=standard,muon_lr=0.02,adam_lr=0.0005"};
  EXPECT_EQ(Spec(args).optimizer().params().at("ns_method"), 1);
  const std::string text = Text(args);
  EXPECT_THAT(text, HasSubstr("optimizer     muon, momentum 0.95, ns_method standard, muon_lr "
                              "0.02, adam_lr 0.0005, betas 0.9 0.95, eps 1e-10, weight decay 0\n"));
  EXPECT_THAT(text, testing::ContainsRegex("\n  matrices      16 hidden ones orthogonalised in "
                                           "[0-9]+ rounds?, in each at most one by each rank; "));
  EXPECT_THAT(text, testing::ContainsRegex("hidden matrices, orthogonalised +16 +1,769,472 +20 "));
  EXPECT_THAT(text, testing::ContainsRegex("\n +others +2 +[0-9,]+ +0.5 "));
  EXPECT_THAT(text, testing::ContainsRegex("norms and biases +34 +[0-9,]+ +0.5 "));
  EXPECT_THAT(text, testing::ContainsRegex("rank +reduction +gather +matrices\n"));
  EXPECT_THAT(DryRunJson(Good(With(args)), machine_), HasSubstr("\"ns_method\": \"standard\""));
  EXPECT_THAT(DryRunJson(Good(With(args)), machine_), HasSubstr("muon_matrix"));
  EXPECT_THAT(Text({}), Not(HasSubstr("orthogonalised")));
}

TEST_F(ResolveOptimizerTest, MuonsBadParameters_AreFindings) {
  const auto refused = [&](const char* param) {
    return Refused(With({"--optimizer=muon", std::string("--optimizer-param=") + param}));
  };
  EXPECT_THAT(refused("muon_lr=0"),
              HasSubstr("--optimizer-param: muon_lr: expected a number from 1e-30 on, got 0"));
  EXPECT_THAT(refused("ns_method=grams"),
              HasSubstr("--optimizer-param: ns_method: expected gram or standard, got \"grams\"; "
                        "did you mean gram?"));
  EXPECT_THAT(refused("ns_method=1"), HasSubstr("ns_method: expected gram or standard, got \"1\""));
  EXPECT_THAT(Refused(With({"--optimizer=muon", "--optimizer-param=muon_lr=0.02", "--lr=0"})),
              HasSubstr("muon_lr: expected a schedule's rate (--lr) above 0"));
  EXPECT_THAT(Refused(With({"--optimizer=muon", "--optimizer-param=muon_lr=0.02",
                            "--lr-schedule=OneCycle", "--lr-schedule-param=cycle_min_lr=1e-4",
                            "--lr-schedule-param=cycle_max_lr=1e-3"})),
              HasSubstr("muon_lr stands beside --lr, which has no effect with --lr-schedule "
                        "OneCycle; leave it out, or give --param-group"));
  EXPECT_THAT(
      Refused(With({"--optimizer=muon", "--optimizer-param=muon_lr=0.02", "--lr-schedule=WarmupLR",
                    "--lr-schedule-param=warmup_max_lr=0.01"})),
      HasSubstr("muon_lr stands beside --lr, which has no effect with --lr-schedule WarmupLR"));
}

TEST_F(ResolveOptimizerTest, OneCycle_MovesBetasThatMustBeThere) {
  const Args cycle = {"--lr-schedule=OneCycle", "--lr-schedule-param=cycle_min_lr=1e-4",
                      "--lr-schedule-param=cycle_max_lr=1e-3"};
  Args args = cycle;
  args.push_back("--optimizer=sgd");
  EXPECT_THAT(Refused(With(args)),
              HasSubstr("--lr-schedule: OneCycle moves betas, which --optimizer sgd has not"));
  args.push_back("--lr-schedule-param=cycle_momentum=false");
  Good(With(args));
  args = cycle;
  args.push_back("--optimizer-param=beta1=0.8");
  EXPECT_THAT(Refused(With(args)), HasSubstr("beta1 has no effect with --lr-schedule OneCycle"));
}

TEST_F(ResolveOptimizerTest, Groups_AreTakenInOrder_AndInTheTableOfADryRun) {
  const Args groups = {"--param-group=^wte:lr=0.1",
                       "--param-group=(?:w|p)te|bias$:weight-decay=0.2"};
  const proto::TrainSpec spec = Spec(groups);
  ASSERT_EQ(spec.optimizer().groups_size(), 2);
  EXPECT_EQ(spec.optimizer().groups(0).pattern(), "^wte");
  EXPECT_EQ(spec.optimizer().groups(0).lr_scale(), 0.1);
  EXPECT_FALSE(spec.optimizer().groups(0).has_weight_decay());
  EXPECT_EQ(spec.optimizer().groups(1).pattern(), "(?:w|p)te|bias$");
  EXPECT_EQ(spec.optimizer().groups(1).weight_decay(), 0.2);
  const std::string text = Text(groups);
  EXPECT_THAT(text, HasSubstr("parameter group"));
  EXPECT_THAT(text, testing::ContainsRegex("\\^wte: matrices +1 +[0-9,]+ +0.1 +0.1\n"));
  EXPECT_THAT(text, testing::ContainsRegex("bias\\$ +[0-9]+ +[0-9,]+ +1 +0.2\n"));
  EXPECT_THAT(text, testing::ContainsRegex("others: norms and biases +[0-9]+ +[0-9,]+ +1 +0\n"));
}

TEST_F(ResolveOptimizerTest, NormsAndBiases_DoNotDecayByDefault) {
  const std::string text = Text({"--weight-decay=0.3"});
  EXPECT_THAT(text, testing::ContainsRegex("\n +matrices +[0-9]+ +[0-9,]+ +1 +0.3\n"));
  EXPECT_THAT(text, testing::ContainsRegex("\n +norms and biases +[0-9]+ +[0-9,]+ +1 +0\n"));
}

TEST_F(ResolveOptimizerTest, GroupsThatAreNone_AreFindings) {
  const auto refused = [&](const Args& more) { return Refused(With(more)); };
  EXPECT_THAT(refused({"--param-group=wte.wieght:lr=1"}),
              HasSubstr("--param-group: no tensor of the model matches \"wte.wieght\"; did you "
                        "mean wte.weight?"));
  EXPECT_THAT(refused({"--param-group=(h:lr=1"}), HasSubstr("expected a regular expression"));
  EXPECT_THAT(refused({"--param-group=wte"}),
              HasSubstr("expected PATTERN:lr=X,weight-decay=X (one of them or both), got \"wte\""));
  EXPECT_THAT(refused({"--param-group=wte:lrr=1"}),
              HasSubstr("there is no setting \"lrr\"; did you mean lr?"));
  EXPECT_THAT(refused({"--param-group=wte:lr=-1"}), HasSubstr("lr is a number from 0"));
  EXPECT_THAT(refused({"--param-group=wte:lr=1,lr=2"}), HasSubstr("lr is given twice"));
  EXPECT_THAT(refused({"--param-group=wte:lr=1", "--param-group=^wte:lr=2"}),
              HasSubstr("are in groups before it"));
  EXPECT_THAT(refused({"--freeze=wte", "--param-group=wte:lr=1"}),
              HasSubstr("--freeze freezes 1 tensor of \"wte\""));
}

TEST_F(ResolveOptimizerTest, Memory_HasTheSlotsOfTheOptimizer) {
  const auto lines = [&](const Args& more) {
    std::string names;
    const Resolved resolved = Good(With(more));
    for (const PlannedBuffer& line : resolved.memory.at(0).buffers) {
      if (line.group == "optimizer") names += line.name + " ";
    }
    return names;
  };
  EXPECT_EQ(lines({}), "optimizer.exp_avg optimizer.exp_avg_sq ");
  EXPECT_EQ(lines({"--optimizer=lion"}), "optimizer.exp_avg ");
  EXPECT_EQ(lines({"--optimizer=adagrad"}), "optimizer.sum ");
  EXPECT_EQ(lines({"--optimizer=sgd"}), "");
  EXPECT_EQ(lines({"--optimizer=muon"}),
            "optimizer.exp_avg optimizer.exp_avg_sq muon_matrix muon_scratch ");
  EXPECT_EQ(lines({"--optimizer=sgd", "--optimizer-param=momentum=0.9"}),
            "optimizer.momentum_buffer ");
}

}  // namespace
}  // namespace dsrun::launcher
