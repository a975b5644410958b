#include "common/model/own_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "common/model/model_spec.h"

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

LayerDescription Layer(const std::string& name, int64_t in, int64_t out) {
  LayerDescription layer{.name = name, .in = in, .out = out};
  layer.tensors = {{name + ".weight", {2, 3}, Init::kNormal, 0.1, true}};
  layer.kept = {{.name = "kept", .elements = 5, .formula = "5"}};
  layer.workspace = {{.name = "work", .elements = 7, .formula = "7"}};
  return layer;
}

ModelDescription Small() {
  ModelDescription model{.name = "small", .layers = {}};
  model.rows = 4;
  model.sample = {.inputs = SampleShape::Elements::kFloats,
                  .inputs_of_row = 3,
                  .targets = SampleShape::Elements::kIds,
                  .target_ids = 10};
  model.outputs = 10;
  model.layers = {Layer("a", 3, 8), Layer("b", 8, 6), Layer("head", 6, 0)};
  model.layers[1].shared = {"a.weight"};
  return model;
}

TEST(OwnModelPlan, Layers_HaveTheirTensorsInOrderAndSharedOnesBehind) {
  const auto plan = PlanOwnModel(Small());
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<std::string> names;
  for (const LogicalTensor& tensor : plan->tensors) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre("a.weight", "b.weight", "head.weight"));
  EXPECT_THAT(plan->layers[0].uses, ElementsAre(0));
  EXPECT_THAT(plan->layers[1].uses, ElementsAre(1, 0));
  EXPECT_EQ(plan->layers[1].kept[0].elements, 5);
  EXPECT_EQ(plan->layers[1].workspace[0].elements, 7);
  EXPECT_EQ(plan->layers[2].kind, LayerKind::kOwn);
  EXPECT_EQ(plan->spec.hidden_size, 8) << "of the widest";
  EXPECT_EQ(plan->spec.family, "own");
  EXPECT_FALSE(IsPlannedFamily(plan->spec.family));
  EXPECT_EQ(plan->InputsOfSample(), 12);
  EXPECT_EQ(plan->TargetsOfSample(), 4);
}

TEST(OwnModelPlan, WhatIsWrong_IsOneMessageWithTheLayer) {
  struct Case {
    std::function<void(ModelDescription&)> set;
    std::string message;
  };
  for (const Case& one : {
           Case{[](ModelDescription& m) { m.name = "a/b"; },
                "a model of one's own: expected a name of letters, digits, '.', '-' and '_', got "
                "\"a/b\""},
           Case{[](ModelDescription& m) { m.layers.clear(); },
                "model small: it has no layers; the last one gives the loss"},
           Case{[](ModelDescription& m) { m.rows = 0; },
                "model small: rows of a sample: expected a number from 1"},
           Case{[](ModelDescription& m) { m.sample.target_ids = 0; },
                "model small: ids of targets: expected a number from 1"},
           Case{[](ModelDescription& m) { m.layers[0].in = 2; },
                "model small, layer a: the first layer takes 2 floats for a row, and the samples "
                "have 3"},
           Case{[](ModelDescription& m) { m.layers[1].in = 7; },
                "model small, layer b: it takes 7 floats for a row, and a before it gives 8"},
           Case{[](ModelDescription& m) { m.layers[0].out = 0; },
                "model small, layer a: floats that it gives for a row: expected a number from 1"},
           Case{[](ModelDescription& m) { m.layers[1].name = "a"; },
                "model small, layer a: another layer has this name"},
           Case{[](ModelDescription& m) { m.layers[1].tensors[0].name = "a.weight"; },
                "model small, layer b: another tensor is called a.weight"},
           Case{[](ModelDescription& m) { m.layers[1].tensors[0].name = "x/y"; },
                "model small, layer b: expected a name of letters"},
           Case{[](ModelDescription& m) { m.layers[1].tensors[0].shape = {}; },
                "model small, layer b: tensor b.weight has no shape"},
           Case{[](ModelDescription& m) {
                  m.layers[1].tensors[0].shape = {1 << 30, 1 << 30};
                },
                "model small, layer b: tensor b.weight would have"},
           Case{[](ModelDescription& m) { m.layers[1].tensors[0].trainable = false; },
                "model small, layer b: tensor b.weight is frozen"},
           Case{[](ModelDescription& m) { m.layers[0].shared = {"b.weight"}; },
                "model small, layer a: it shares tensor b.weight, which no layer before has"},
           Case{[](ModelDescription& m) { m.layers[1].kept[0].elements = -1; },
                "model small, layer b: kept: expected a number from 1"},
           Case{[](ModelDescription& m) {
                  for (LayerDescription& layer : m.layers) layer.tensors.clear();
                  m.layers[1].shared.clear();
                },
                "model small: no layer has a tensor: there is nothing to train"},
           Case{[](ModelDescription& m) { m.layers[1].kind = LayerKind::kMlp; },
                "model small, layer b: a block of the engine has the width of the model, 8, got 8 "
                "and 6"},
           Case{[](ModelDescription& m) {
                  m.layers[0].out = m.layers[1].in = m.layers[1].out = m.layers[2].in = 6;
                  m.layers[1].kind = LayerKind::kMlp;
                },
                "model small, layer b: a block of the engine has six tensors of its own: (6), (6), "
                "(6, 24), (24), (24, 6), (6)"},
           Case{[](ModelDescription& m) { m.layers[0].kind = LayerKind::kMlp; },
                "model small, layer a: a block of the engine is neither the first nor the last"},
           Case{[](ModelDescription& m) { m.layers[1].kind = LayerKind::kEmbedding; },
                "model small, layer b: of the engine's own kinds it can be attention or MLP"},
       }) {
    ModelDescription model = Small();
    one.set(model);
    const absl::Status status = PlanOwnModel(model).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << one.message;
    EXPECT_THAT(std::string(status.message()), StartsWith(one.message));
  }
}

TEST(OwnModelPlan, ItsSpec_IsNoneOfTheEnginesFamilies) {
  EXPECT_THAT(std::string(Validate(PlanOwnModel(Small())->spec).message()),
              StartsWith("there is no family \"own\" of models: a model of one's own is trained by "
                         "the program that declares it"));
}

}  // namespace
}  // namespace dsrun
