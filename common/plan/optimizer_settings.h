// The optimizers there are, as one table: name, slots, parameters with default and bounds. Whoever
// reads flags, whoever explains them, the plans and the engine read it, so they cannot differ.
// With it parameter groups: which tensors have a rate and a decay of their own. Pure.
//
// The formulas stand with the kernels (worker/device/optimizer_arguments.h) and in
// docs/design/0022-optimizers.md, with what differs from PyTorch and DeepSpeed.

#ifndef DSRUN_COMMON_PLAN_OPTIMIZER_SETTINGS_H_
#define DSRUN_COMMON_PLAN_OPTIMIZER_SETTINGS_H_

#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/logical_tensor.h"
#include "common/plan/optimizer_plan.h"

namespace dsrun {

struct OptimizerParam {
  std::string_view key;  // as PyTorch or DeepSpeed spells it
  double fallback;
  double least;            // smallest value that is allowed
  double below;            // every value is below this; infinity: no bound
  std::string_view about;  // for people, one phrase
  bool is_flag = false;    // 0 or 1
  // Not empty: a choice, and the number is a place in this list. Words are what people read and
  // write.
  std::span<const std::string_view> words = {};
  bool optional = false;  // has no fallback; absent means something of its own, which `about` says
};

// For people: a number, or the word that it stands for. REQUIRES: it is in bounds.
std::string ValueText(const OptimizerParam& param, double value);

struct OptimizerForm {
  enum class Rule { kAdamW, kAdam, kLion, kLamb, kAdagrad, kSgd, kMuon };

  Rule rule;
  std::string_view name;
  std::string_view about;                // for people, with where it comes from
  std::span<const OptimizerSlot> slots;  // the most that it keeps: see PlanOf
  std::span<const OptimizerParam> params;
  double weight_decay;  // where --weight-decay is not given

  const OptimizerParam* Find(std::string_view key) const;  // null: it has none of that name
};

// The first is the default, AdamW.
std::span<const OptimizerForm> OptimizerForms();
// Null: there is none of that name.
const OptimizerForm* FindOptimizer(std::string_view name);

// Of `params`, momentum alone decides whether SGD keeps its slot.
OptimizerPlan PlanOf(const OptimizerForm& form, const std::map<std::string, double>& params);

// Tensors with a rate and a decay of their own.
struct ParameterGroup {
  std::string pattern;                 // a regular expression (common/model/name_pattern.h)
  double lr_scale = 1;                 // of the schedule's rate
  std::optional<double> weight_decay;  // of all its tensors; absent: as outside of groups
  std::set<std::string> tensors;       // that it matches, and no group before it
};

// What one tensor is updated with.
struct TensorRates {
  double lr_scale = 1;
  double weight_decay = 0;
  friend bool operator==(const TensorRates&, const TensorRates&) = default;
};

struct OptimizerSettings {
  const OptimizerForm* form;
  std::map<std::string, double> params;  // every one of the form; optional ones where given
  double weight_decay = 0;               // of tensors with LogicalTensor::weight_decay: matrices
  std::vector<ParameterGroup> groups = {};
  // Of Muon: the rates of what it orthogonalises, and of the others, by that of the schedule.
  double muon_factor = 1;
  double adam_factor = 1;

  double Param(const char* key) const { return params.at(key); }
  // Its update needs the matrix whole.
  bool Orthogonalises(const LogicalTensor& tensor) const {
    return form->rule == OptimizerForm::Rule::kMuon && tensor.hidden_matrix;
  }
  // REQUIRES: it is Muon.
  NsMethod ns_method() const { return static_cast<NsMethod>(static_cast<int>(Param("ns_method"))); }
  OptimizerPlan plan() const { return PlanOf(*form, params); }
  // Of the group that the tensor is in; nullptr: it is in none.
  const ParameterGroup* GroupOf(const std::string& tensor) const;
  TensorRates RatesOf(const LogicalTensor& tensor) const;
};

// `params`: those that are not in it have their defaults. Errors: INVALID_ARGUMENT: there is no
// such optimizer, it has no such parameter, or a value is out of its bounds (all findings in one
// message).
absl::StatusOr<OptimizerSettings> CreateOptimizer(const std::string& name,
                                                  const std::map<std::string, double>& params,
                                                  double weight_decay);

// Sets the factors of muon_lr and adam_lr, where they are given: rates at which the schedule's own
// is `lr`. Errors: INVALID_ARGUMENT: one is given, and `lr` is 0.
absl::Status SetRateFactors(double lr, OptimizerSettings& settings);

// Takes `group` (its pattern, scale and decay) as the last; finds its tensors among `names`.
// Errors: INVALID_ARGUMENT: the pattern is no expression; NOT_FOUND: it matches no name;
// ALREADY_EXISTS: all that it matches are in groups before it.
absl::Status AddGroup(ParameterGroup group, const std::vector<std::string>& names,
                      OptimizerSettings& settings);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_OPTIMIZER_SETTINGS_H_
