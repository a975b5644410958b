#include "common/model/model_plan.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/gpt2.h"
#include "common/model/llama.h"

namespace dsrun {

namespace {

bool IsHidden(LayerKind kind) {
  switch (kind) {
    case LayerKind::kAttention:
    case LayerKind::kMlp:
    case LayerKind::kGroupedAttention:
    case LayerKind::kGatedMlp:
      return true;
    case LayerKind::kEmbedding:
    case LayerKind::kTokenEmbedding:
    case LayerKind::kHead:
    case LayerKind::kRmsHead:
    case LayerKind::kOwn:
      return false;
  }
  return false;
}

void MarkHiddenMatrices(ModelPlan& plan) {
  for (LogicalTensor& tensor : plan.tensors) tensor.hidden_matrix = tensor.shape.size() == 2;
  for (const LayerPlan& layer : plan.layers) {
    if (IsHidden(layer.kind)) continue;
    for (const size_t tensor : layer.uses) plan.tensors[tensor].hidden_matrix = false;
  }
}

}  // namespace

ModelPlan PlanModel(const ModelSpec& spec) {
  ModelPlan plan = spec.family == "llama" ? PlanLlama(spec) : PlanGpt2(spec);
  MarkHiddenMatrices(plan);
  return plan;
}

ModelPlan PlanModel(const ModelSpec& spec, const std::vector<std::string>& frozen, DType dtype) {
  ModelPlan plan = PlanModel(spec);
  plan.dtype = dtype;
  for (LogicalTensor& tensor : plan.tensors) {
    tensor.trainable = std::find(frozen.begin(), frozen.end(), tensor.name) == frozen.end();
  }
  std::vector<size_t> order(plan.tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_partition(order.begin(), order.end(),
                        [&](size_t tensor) { return plan.tensors[tensor].trainable; });
  std::vector<LogicalTensor> tensors;
  std::vector<size_t> place(order.size());  // by what was the place before
  for (const size_t tensor : order) {
    place[tensor] = tensors.size();
    tensors.push_back(std::move(plan.tensors[tensor]));
  }
  plan.tensors = std::move(tensors);
  for (LayerPlan& layer : plan.layers) {
    for (size_t& tensor : layer.uses) tensor = place[tensor];
  }
  return plan;
}

absl::Status CheckFrozen(const ModelSpec& spec, const std::vector<std::string>& frozen) {
  std::set<std::string> left;
  for (const LogicalTensor& tensor : LogicalTensors(spec)) left.insert(tensor.name);
  for (const std::string& name : frozen) {
    if (left.erase(name) == 1) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("frozen tensor ", name, ": the model has none of this name, or it is named ",
                     "twice; give --freeze again"));
  }
  if (!left.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "all tensors of the model are frozen: nothing is left to train; freeze fewer");
}

std::vector<LogicalTensor> LogicalTensors(const ModelSpec& spec) { return PlanModel(spec).tensors; }

int64_t ParameterCount(const ModelSpec& spec) {
  int64_t count = 0;
  for (const LogicalTensor& tensor : LogicalTensors(spec)) count += tensor.size();
  return count;
}

double TrainFlops(const ModelSpec& spec, int64_t tokens) {
  double of_token = 0;
  for (const LayerPlan& layer : PlanModel(spec).layers) of_token += layer.flops_of_token;
  return 3 * of_token * static_cast<double>(tokens);
}

}  // namespace dsrun
