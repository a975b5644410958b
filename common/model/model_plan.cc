#include "common/model/model_plan.h"

#include "common/model/gpt2.h"
#include "common/model/llama.h"

namespace dsrun {

ModelPlan PlanModel(const ModelSpec& spec) {
  return spec.family == "llama" ? PlanLlama(spec) : PlanGpt2(spec);
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
