#include "common/format/model_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/format/frozen_in.h"
#include "common/model/model_plan.h"
#include "common/numerics/fingerprint.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

Manifest OfAModel() {
  Manifest manifest;
  manifest.facts.model = {"small", 1, 32, 2, 16, 100};
  manifest.facts.fingerprint.sums = std::string(kExactSums);
  const std::vector<LogicalTensor> tensors = LogicalTensors(manifest.facts.model);
  for (const std::string slot : {"model/", "state/exp_avg/", "state/exp_avg_sq/"}) {
    for (const LogicalTensor& tensor : tensors) {
      manifest.tensors.push_back({slot + tensor.name, tensor.shape, {}});
    }
  }
  manifest.tensors.push_back({"sums/exponents", {static_cast<int64_t>(tensors.size())}, {}});
  std::sort(manifest.tensors.begin(), manifest.tensors.end(),
            [](const ManifestTensor& a, const ManifestTensor& b) { return a.name < b.name; });
  return manifest;
}

ManifestTensor& Find(Manifest& manifest, const std::string& name) {
  return *std::find_if(manifest.tensors.begin(), manifest.tensors.end(),
                       [&](const ManifestTensor& tensor) { return tensor.name == name; });
}

void Remove(Manifest& manifest, const std::string& name) {
  std::erase_if(manifest.tensors, [&](const ManifestTensor& t) { return t.name == name; });
}

template <typename Change>
std::string Refusal(const Change& change) {
  Manifest manifest = OfAModel();
  change(manifest);
  const absl::Status status = CheckModelTensors(manifest);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  return std::string(status.message());
}

TEST(ModelTensors, WhatASaveWrites_IsGood) {
  EXPECT_TRUE(CheckModelTensors(OfAModel()).ok()) << CheckModelTensors(OfAModel());
  Manifest fast = OfAModel();
  fast.facts.fingerprint.sums = std::string(kFastSums);
  Remove(fast, "sums/exponents");
  EXPECT_TRUE(CheckModelTensors(fast).ok()) << CheckModelTensors(fast);
  // One that is not trained has no state, and no exponent.
  Manifest frozen = OfAModel();
  Remove(frozen, "state/exp_avg/wte.weight");
  Remove(frozen, "state/exp_avg_sq/wte.weight");
  --Find(frozen, "sums/exponents").shape[0];
  EXPECT_TRUE(CheckModelTensors(frozen).ok()) << CheckModelTensors(frozen);
}

TEST(ModelTensors, WhatContradictsTheModel_IsNamedWithExpectedAndGot) {
  EXPECT_THAT(
      Refusal([](Manifest& m) { Remove(m, "sums/exponents"); }),
      HasSubstr("sums/exponents: expected shape (16), because its sums are \"exact 1\", got "
                "no such tensor"));
  EXPECT_THAT(Refusal([](Manifest& m) {
                Find(m, "sums/exponents").shape = {4, 4};
              }),
              HasSubstr("sums/exponents: expected shape (16), got (4, 4)"));
  EXPECT_THAT(Refusal([](Manifest& m) {
                Find(m, "model/wte.weight").shape = {32, 100};
              }),
              HasSubstr("model/wte.weight: expected shape (100, 32), got (32, 100)"));
  EXPECT_THAT(Refusal([](Manifest& m) { Remove(m, "model/ln_f.bias"); }),
              HasSubstr("model/ln_f.bias: expected shape (32), got no such tensor"));
  EXPECT_THAT(Refusal([](Manifest& m) { Find(m, "model/ln_f.bias").name = "model/ln_f.other"; }),
              HasSubstr("model/ln_f.other: expected no such tensor, got one of shape (32)"));
  EXPECT_THAT(Refusal([](Manifest& m) { Remove(m, "state/exp_avg/wte.weight"); }),
              HasSubstr("state/exp_avg/wte.weight: expected shape (100, 32), got no such tensor"));
  EXPECT_THAT(Refusal([](Manifest& m) { Find(m, "model/wte.weight").type = ElementType::kI64; }),
              HasSubstr("model/wte.weight: expected F32, BF16 or F16, got I64"));
  EXPECT_THAT(Refusal([](Manifest& m) { m.facts.model.num_layers = 9'000; }),
              HasSubstr("expected the tensors of 9000 layers, got "));
  EXPECT_THAT(Refusal([](Manifest& m) { m.facts.model.hidden_size = 0; }),
              HasSubstr("it contradicts the model that it names: "));
}

TEST(ModelTensors, OfAnotherOptimizer_HaveItsSlotsAndNoOthers) {
  Manifest lion = OfAModel();
  lion.facts.optimizer = {"lion", {"exp_avg"}, {}};
  EXPECT_THAT(std::string(CheckModelTensors(lion).message()),
              HasSubstr("expected the slots of its optimizer lion (state/exp_avg), got "
                        "(state/exp_avg, state/exp_avg_sq)"));
  std::erase_if(lion.tensors, [](const ManifestTensor& tensor) {
    return tensor.name.starts_with("state/exp_avg_sq/");
  });
  EXPECT_TRUE(CheckModelTensors(lion).ok()) << CheckModelTensors(lion);
}

// Nothing of the tensors tells all frozen from no slots: the optimizer that is named does.
// Muon keeps the momentum of a hidden matrix, and of the others both moments.
TEST(ModelTensors, OfMuon_HaveNoSecondMomentOfHiddenMatrices) {
  const auto muon = [] {
    Manifest manifest = OfAModel();
    manifest.facts.optimizer.name = "muon";
    for (const LogicalTensor& tensor : LogicalTensors(manifest.facts.model)) {
      if (tensor.hidden_matrix) Remove(manifest, "state/exp_avg_sq/" + tensor.name);
    }
    return manifest;
  };
  EXPECT_TRUE(CheckModelTensors(muon()).ok()) << CheckModelTensors(muon());
  Manifest adamw = muon();
  adamw.facts.optimizer.name = "adamw";
  EXPECT_THAT(std::string(CheckModelTensors(adamw).message()),
              HasSubstr("state/exp_avg_sq/h.0.attn.c_attn.weight: expected shape (32, 96), got no "
                        "such tensor"));
  Manifest too_much = OfAModel();
  too_much.facts.optimizer.name = "muon";
  EXPECT_THAT(std::string(CheckModelTensors(too_much).message()),
              HasSubstr("state/exp_avg_sq/h.0.attn.c_attn.weight: expected no such tensor"));
  Manifest too_little = muon();
  Remove(too_little, "state/exp_avg_sq/wte.weight");
  EXPECT_FALSE(CheckModelTensors(too_little).ok());
  Manifest matrices = muon();  // nothing else was trained
  for (const LogicalTensor& tensor : LogicalTensors(matrices.facts.model)) {
    if (tensor.hidden_matrix) continue;
    Remove(matrices, "state/exp_avg/" + tensor.name);
    Remove(matrices, "state/exp_avg_sq/" + tensor.name);
    --Find(matrices, "sums/exponents").shape[0];
  }
  EXPECT_TRUE(CheckModelTensors(matrices).ok()) << CheckModelTensors(matrices);
}

TEST(ModelTensors, WithoutSlots_WhatIsFrozenIsListed) {
  Manifest sgd = OfAModel();
  std::erase_if(sgd.tensors,
                [](const ManifestTensor& tensor) { return tensor.name.starts_with("state/"); });
  EXPECT_FALSE(CheckModelTensors(sgd).ok()) << "AdamW: all are frozen, and have no exponents";
  EXPECT_EQ(FrozenIn(sgd).size(), LogicalTensors(sgd.facts.model).size());
  sgd.facts.optimizer = {"sgd", {}, {}};
  EXPECT_TRUE(CheckModelTensors(sgd).ok()) << CheckModelTensors(sgd);
  EXPECT_TRUE(FrozenIn(sgd).empty());
  sgd.facts.optimizer.frozen = {"wte.weight"};
  EXPECT_THAT(std::string(CheckModelTensors(sgd).message()), HasSubstr("sums/exponents"));
  --Find(sgd, "sums/exponents").shape[0];
  EXPECT_TRUE(CheckModelTensors(sgd).ok()) << CheckModelTensors(sgd);
  EXPECT_EQ(FrozenIn(sgd), std::set<std::string>{"wte.weight"});
  sgd.facts.optimizer.frozen = {"wte"};
  EXPECT_THAT(std::string(CheckModelTensors(sgd).message()),
              HasSubstr("\"wte\" as a frozen tensor, which the model has not"));
}

}  // namespace
}  // namespace dsrun
