#include "common/plan/optimizer_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "common/plan/optimizer_of_spec.h"

namespace dsrun {
namespace {

using testing::HasSubstr;

TEST(OptimizerSettings, Table_NamesEachOnce_WithDefaultsInTheirBounds) {
  std::set<std::string_view> names;
  for (const OptimizerForm& form : OptimizerForms()) {
    EXPECT_TRUE(names.insert(form.name).second) << form.name;
    EXPECT_LE(form.slots.size(), kMostOptimizerSlots);
    const auto settings = CreateOptimizer(std::string(form.name), {}, form.weight_decay);
    ASSERT_TRUE(settings.ok()) << settings.status();
    for (const OptimizerParam& param : form.params) {
      EXPECT_EQ(settings->params.contains(std::string(param.key)), !param.optional) << param.key;
    }
  }
  EXPECT_EQ(OptimizerForms().front().name, kAdamW.name);
}

TEST(OptimizerSettings, Create_SaysAllThatIsWrong) {
  const auto all = CreateOptimizer("adam", {{"beta1", 1}, {"momentum", 0.9}}, -1).status();
  EXPECT_EQ(all.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(all.message()),
              HasSubstr("beta1: expected a number from 0 on, below 1, got 1; adam has no parameter "
                        "\"momentum\"; weight decay: expected a number from 0 on, got -1"));
  EXPECT_FALSE(CreateOptimizer("nadam", {}, 0).ok());
}

TEST(OptimizerSettings, SgdKeepsASlot_OnlyWithMomentum) {
  const OptimizerForm& sgd = *FindOptimizer("sgd");
  EXPECT_TRUE(PlanOf(sgd, {}).slots.empty());
  EXPECT_TRUE(PlanOf(sgd, {{"momentum", 0}}).slots.empty());
  EXPECT_EQ(PlanOf(sgd, {{"momentum", 0.5}}).slots.size(), 1u);
}

TEST(OptimizerSettings, Groups_FirstThatMatchesWins_AndMatricesAloneDecay) {
  OptimizerSettings settings = CreateOptimizer("adamw", {}, 0.1).value();
  const std::vector<std::string> names = {"a.weight", "a.bias", "b.weight", "b.bias"};
  ASSERT_TRUE(
      AddGroup({.pattern = "^a", .lr_scale = 2, .weight_decay = {}, .tensors = {}}, names, settings)
          .ok());
  ASSERT_TRUE(
      AddGroup({.pattern = "bias", .weight_decay = 0.5, .tensors = {}}, names, settings).ok());
  const auto rates = [&](const char* name, bool matrix) {
    return settings.RatesOf({.name = name, .shape = {}, .weight_decay = matrix});
  };
  EXPECT_EQ(rates("a.weight", true), (TensorRates{2, 0.1}));
  EXPECT_EQ(rates("a.bias", false), (TensorRates{2, 0}));
  EXPECT_EQ(rates("b.weight", true), (TensorRates{1, 0.1}));
  EXPECT_EQ(rates("b.bias", false), (TensorRates{1, 0.5}));
  EXPECT_EQ(rates("b.norm", false), (TensorRates{1, 0}));
  const auto add = [&](const char* pattern) {
    return AddGroup({.pattern = pattern, .weight_decay = {}, .tensors = {}}, names, settings)
        .code();
  };
  EXPECT_EQ(add("zzz"), absl::StatusCode::kNotFound);
  EXPECT_EQ(add(""), absl::StatusCode::kNotFound);
  EXPECT_EQ(add("(a"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(add("a.bias"), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(settings.groups.size(), 2u);
}

TEST(OptimizerSettings, Muon_IsOfHiddenMatrices_WithRatesBesideTheSchedules) {
  OptimizerSettings settings =
      CreateOptimizer("muon", {{"muon_lr", 0.02}, {"adam_lr", 5e-4}}, 0.1).value();
  EXPECT_EQ(settings.ns_method(), NsMethod::kGram);
  ASSERT_TRUE(SetRateFactors(1e-3, settings).ok());
  const LogicalTensor hidden{
      .name = "fc", .shape = {4, 8}, .weight_decay = true, .hidden_matrix = true};
  const LogicalTensor table{.name = "wte", .shape = {4, 8}, .weight_decay = true};
  EXPECT_TRUE(settings.Orthogonalises(hidden));
  EXPECT_FALSE(settings.Orthogonalises(table));
  EXPECT_EQ(settings.RatesOf(hidden), (TensorRates{20, 0.1}));
  EXPECT_EQ(settings.RatesOf(table), (TensorRates{0.5, 0.1}));
  EXPECT_FALSE(CreateOptimizer("adamw", {}, 0).value().Orthogonalises(hidden));
  EXPECT_TRUE(OrthogonalisesMatrices(settings.plan()));
  EXPECT_EQ(CreateOptimizer("muon", {{"ns_method", 1}}, 0).value().ns_method(),
            NsMethod::kStandard);
}

TEST(OptimizerSettings, MuonOutOfBounds_SaysWhatIsWrong) {
  const auto said = [](const std::map<std::string, double>& params) {
    return std::string(CreateOptimizer("muon", params, 0).status().message());
  };
  EXPECT_EQ(said({{"muon_lr", 0}}), "muon_lr: expected a number from 1e-30 on, got 0");
  EXPECT_EQ(said({{"ns_method", 2}}), "ns_method: expected one of 0 (gram), 1 (standard), got 2");
  EXPECT_EQ(said({{"ns_method", 0.5}}),
            "ns_method: expected one of 0 (gram), 1 (standard), got 0.5");
  EXPECT_EQ(said({{"momentum", 1}}), "momentum: expected a number from 0 on, below 1, got 1");
  OptimizerSettings settings = CreateOptimizer("muon", {{"adam_lr", 0.1}}, 0).value();
  EXPECT_THAT(std::string(SetRateFactors(0, settings).message()),
              HasSubstr("adam_lr: expected a schedule's rate (--lr) above 0"));
  proto::TrainSpec spec;
  spec.mutable_optimizer()->set_name("muon");
  (*spec.mutable_optimizer()->mutable_params())["muon_lr"] = 0.02;
  EXPECT_FALSE(OptimizerOfSpec(spec).ok()) << "the rate that it stands beside is 0";
}

TEST(OptimizerSettings, OfASpecWithoutOne_IsAdamWOfTheOldFields) {
  proto::TrainSpec spec;
  spec.set_adam_beta1(0.8);
  spec.set_adam_beta2(0.9);
  spec.set_adam_eps(1e-6);
  spec.set_weight_decay(0.2);
  const OptimizerSettings settings = OptimizerOfSpec(spec).value();
  EXPECT_EQ(settings.form->name, "adamw");
  EXPECT_EQ(settings.Param("beta1"), 0.8);
  EXPECT_EQ(settings.Param("beta2"), 0.9);
  EXPECT_EQ(settings.Param("eps"), 1e-6);
  EXPECT_EQ(settings.weight_decay, 0.2);
  EXPECT_EQ(OptimizerPlanOfSpec(spec).slots.size(), 2u);
  spec.mutable_optimizer()->set_name("sgd");
  EXPECT_TRUE(OptimizerPlanOfSpec(spec).slots.empty());
}

}  // namespace
}  // namespace dsrun
