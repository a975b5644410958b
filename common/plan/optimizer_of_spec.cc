#include "common/plan/optimizer_of_spec.h"

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"

namespace dsrun {
namespace {

std::map<std::string, double> ParamsOf(const proto::TrainSpec& spec) {
  const auto& params = spec.optimizer().params();
  return {params.begin(), params.end()};
}

absl::Status CheckNotNegative(const char* what, double value) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " of a parameter group: expected a number from 0 on, got ", value));
}

}  // namespace

absl::StatusOr<OptimizerSettings> OptimizerOfSpec(const proto::TrainSpec& spec) {
  if (!spec.has_optimizer()) {
    return OptimizerSettings{.form = FindOptimizer(kAdamW.name),
                             .params = {{"beta1", spec.adam_beta1()},
                                        {"beta2", spec.adam_beta2()},
                                        {"eps", spec.adam_eps()}},
                             .weight_decay = spec.weight_decay()};
  }
  ASSIGN_OR_RETURN(OptimizerSettings settings,
                   CreateOptimizer(spec.optimizer().name(), ParamsOf(spec), spec.weight_decay()));
  RETURN_IF_ERROR(SetRateFactors(spec.lr(), settings));
  if (spec.optimizer().groups().empty()) return settings;
  std::vector<std::string> names;
  for (const LogicalTensor& tensor : LogicalTensors(FromProto(spec.model()))) {
    names.push_back(tensor.name);
  }
  for (const proto::ParameterGroup& one : spec.optimizer().groups()) {
    ParameterGroup group{.pattern = one.pattern(),
                         .lr_scale = one.has_lr_scale() ? one.lr_scale() : 1,
                         .weight_decay = {},
                         .tensors = {}};
    if (one.has_weight_decay()) group.weight_decay = one.weight_decay();
    RETURN_IF_ERROR(CheckNotNegative("rate", group.lr_scale));
    RETURN_IF_ERROR(CheckNotNegative("weight decay", group.weight_decay.value_or(0)));
    RETURN_IF_ERROR(AddGroup(std::move(group), names, settings));
  }
  return settings;
}

OptimizerPlan OptimizerPlanOfSpec(const proto::TrainSpec& spec) {
  if (!spec.has_optimizer()) return kAdamW;
  const OptimizerForm* const form = FindOptimizer(spec.optimizer().name());
  return form == nullptr ? kAdamW : PlanOf(*form, ParamsOf(spec));
}

}  // namespace dsrun
