#include "common/plan/optimizer_settings.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/name_pattern.h"

namespace dsrun {
namespace {

using Rule = OptimizerForm::Rule;

constexpr double kNoBound = std::numeric_limits<double>::infinity();
// An update divides by a root plus this: 0 / 0 where there never was a gradient.
constexpr double kLeastEps = 1e-30;

constexpr OptimizerParam Beta1() { return {"beta1", 0.9, 0, 1, "decay of the first moment"}; }
constexpr OptimizerParam Beta2(double fallback) {
  return {"beta2", fallback, 0, 1, "decay of the second moment"};
}
constexpr OptimizerParam Eps(double fallback) {
  return {"eps", fallback, kLeastEps, kNoBound, "added to the root of the second moment"};
}

constexpr std::array<OptimizerParam, 3> kAdamWParams = {{Beta1(), Beta2(0.95), Eps(1e-8)}};
constexpr std::array<OptimizerParam, 3> kAdamParams = {{Beta1(), Beta2(0.999), Eps(1e-8)}};
constexpr std::array<OptimizerParam, 2> kLionParams = {
    {{"beta1", 0.9, 0, 1, "weight of the momentum in the sign that is followed"},
     {"beta2", 0.99, 0, 1, "decay of the momentum"}}};
constexpr std::array<OptimizerParam, 5> kLambParams = {
    {Beta1(),
     Beta2(0.999),
     Eps(1e-8),
     {"min_coeff", 0.01, 0, kNoBound, "smallest trust ratio"},
     {"max_coeff", 10, 0, kNoBound, "greatest trust ratio"}}};
constexpr std::array<OptimizerParam, 1> kAdagradParams = {
    {{"eps", 1e-10, kLeastEps, kNoBound, "added to the root of the sum of squares"}}};
constexpr std::array<OptimizerParam, 2> kSgdParams = {
    {{"momentum", 0, 0, 1, "decay of the sum of gradients; 0: none is kept"},
     {"nesterov", 0, 0, kNoBound, "look ahead along the momentum (0 or 1)", /*is_flag=*/true}}};

// A rate of 0 would be a group that does not learn, which --freeze says better.
constexpr double kLeastRate = 1e-30;
constexpr std::array<std::string_view, 2> kNsMethods = {"gram", "standard"};  // by NsMethod
constexpr OptimizerParam RateOf(std::string_view key, std::string_view about) {
  OptimizerParam param{key, 0, kLeastRate, kNoBound, about};
  param.optional = true;
  return param;
}
constexpr OptimizerParam NsMethodParam() {
  OptimizerParam param{"ns_method", 0, 0, 2, "how a matrix is orthogonalised"};
  param.words = kNsMethods;
  return param;
}
// As DeepSpeed has them, and what it leaves at their defaults: the moments of the others.
constexpr std::array<OptimizerParam, 7> kMuonParams = {
    {{"momentum", 0.95, 0, 1, "decay of the momentum of matrices"},
     NsMethodParam(),
     RateOf("muon_lr", "rate of matrices where the schedule's is --lr; absent: --lr"),
     RateOf("adam_lr", "rate of the others likewise"),
     Beta1(),
     Beta2(0.95),
     Eps(1e-10)}};

constexpr std::array<OptimizerSlot, 1> kLionSlots = {{{"exp_avg"}}};
constexpr std::array<OptimizerSlot, 1> kAdagradSlots = {{{"sum"}}};
constexpr std::array<OptimizerSlot, 1> kSgdSlots = {{{"momentum_buffer"}}};

constexpr std::array<OptimizerForm, 7> kForms = {{
    {Rule::kAdamW, "adamw", "decoupled decay; Loshchilov and Hutter, 2019", kAdamW.slots,
     kAdamWParams, 0.1},
    {Rule::kAdam, "adam", "decay in the gradient; Kingma and Ba, 2015", kAdamW.slots, kAdamParams,
     0},
    {Rule::kLion, "lion", "signs, decoupled decay; Chen et al., 2023", kLionSlots, kLionParams, 0},
    {Rule::kLamb, "lamb", "AdamW with a trust ratio per tensor; You et al., 2020", kAdamW.slots,
     kLambParams, 0},
    {Rule::kAdagrad, "adagrad", "decay in the gradient; Duchi et al., 2011", kAdagradSlots,
     kAdagradParams, 0},
    {Rule::kSgd, "sgd", "decay in the gradient; momentum as in Sutskever et al., 2013", kSgdSlots,
     kSgdParams, 0},
    {Rule::kMuon, kMuonName,
     "momentum of hidden matrices orthogonalised, AdamW for the others; Jordan et al., 2024",
     muon_optimizer::kSlots, kMuonParams, 0},
}};

std::string NamesOfAll() {
  std::string names;
  for (const OptimizerForm& form : kForms) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(form.name));
  }
  return names;
}

std::string CheckValue(const OptimizerParam& param, double value) {
  const std::string got = absl::StrCat(std::string(param.key), ": expected ");
  if (param.is_flag) {
    return value == 0 || value == 1 ? "" : absl::StrCat(got, "0 or 1, got ", value);
  }
  if (!param.words.empty()) {
    const auto place = static_cast<size_t>(value);
    if (value >= 0 && value < static_cast<double>(param.words.size()) &&
        static_cast<double>(place) == value) {
      return "";
    }
    std::string words;
    for (size_t i = 0; i < param.words.size(); ++i) {
      absl::StrAppend(&words, i == 0 ? "" : ", ", i, " (", std::string(param.words[i]), ")");
    }
    return absl::StrCat(got, "one of ", words, ", got ", value);
  }
  if (std::isfinite(value) && value >= param.least && value < param.below) return "";
  return absl::StrCat(got, "a number from ", param.least, " on",
                      std::isinf(param.below) ? "" : absl::StrCat(", below ", param.below),
                      ", got ", value);
}

// What two parameters say together; empty: nothing is wrong.
std::string CheckTogether(const OptimizerSettings& settings) {
  switch (settings.form->rule) {
    case Rule::kSgd:
      if (settings.Param("nesterov") != 0 && settings.Param("momentum") == 0) {
        return "nesterov: expected a momentum above 0, got none; give momentum=0.9 or leave it out";
      }
      return "";
    case Rule::kLamb:
      if (settings.Param("min_coeff") > settings.Param("max_coeff")) {
        return absl::StrCat("min_coeff: expected at most max_coeff (", settings.Param("max_coeff"),
                            "), got ", settings.Param("min_coeff"));
      }
      return "";
    case Rule::kAdamW:
    case Rule::kAdam:
    case Rule::kLion:
    case Rule::kAdagrad:
    case Rule::kMuon:
      return "";
  }
  return "";
}

}  // namespace

std::string ValueText(const OptimizerParam& param, double value) {
  if (!param.words.empty()) return std::string(param.words[static_cast<size_t>(value)]);
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

const OptimizerParam* OptimizerForm::Find(std::string_view key) const {
  for (const OptimizerParam& param : params) {
    if (param.key == key) return &param;
  }
  return nullptr;
}

std::span<const OptimizerForm> OptimizerForms() { return kForms; }

const OptimizerForm* FindOptimizer(std::string_view name) {
  for (const OptimizerForm& form : kForms) {
    if (form.name == name) return &form;
  }
  return nullptr;
}

OptimizerPlan PlanOf(const OptimizerForm& form, const std::map<std::string, double>& params) {
  if (form.rule != Rule::kSgd) return {form.name, form.slots};
  const auto momentum = params.find("momentum");
  const bool keeps = momentum != params.end() && momentum->second != 0;
  return {form.name, form.slots.first(keeps ? form.slots.size() : 0)};
}

const ParameterGroup* OptimizerSettings::GroupOf(const std::string& tensor) const {
  for (const ParameterGroup& group : groups) {
    if (group.tensors.contains(tensor)) return &group;
  }
  return nullptr;
}

TensorRates OptimizerSettings::RatesOf(const LogicalTensor& tensor) const {
  TensorRates rates{.weight_decay = tensor.weight_decay ? weight_decay : 0};
  if (const ParameterGroup* const group = GroupOf(tensor.name)) {
    rates.lr_scale = group->lr_scale;
    rates.weight_decay = group->weight_decay.value_or(rates.weight_decay);
  }
  rates.lr_scale *= Orthogonalises(tensor) ? muon_factor : adam_factor;
  return rates;
}

absl::Status SetRateFactors(double lr, OptimizerSettings& settings) {
  const auto factor = [&](const char* key, double* out) -> absl::Status {
    const auto given = settings.params.find(key);
    if (given == settings.params.end()) return absl::OkStatus();
    if (lr > 0) {
      *out = given->second / lr;
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        key, ": expected a schedule's rate (--lr) above 0, which it stands beside, got ", lr));
  };
  RETURN_IF_ERROR(factor("muon_lr", &settings.muon_factor));
  return factor("adam_lr", &settings.adam_factor);
}

absl::StatusOr<OptimizerSettings> CreateOptimizer(const std::string& name,
                                                  const std::map<std::string, double>& params,
                                                  double weight_decay) {
  const OptimizerForm* const form = FindOptimizer(name);
  if (form == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected one of ", NamesOfAll(), ", got \"", name, "\""));
  }
  OptimizerSettings settings{.form = form, .params = {}, .weight_decay = weight_decay};
  for (const OptimizerParam& param : form->params) {
    if (!param.optional) settings.params[std::string(param.key)] = param.fallback;
  }
  std::vector<std::string> findings;
  for (const auto& [key, value] : params) {
    const OptimizerParam* const param = form->Find(key);
    std::string finding = param != nullptr ? CheckValue(*param, value)
                                           : absl::StrCat(name, " has no parameter \"", key, "\"");
    if (!finding.empty()) findings.push_back(std::move(finding));
    settings.params[key] = value;
  }
  if (!std::isfinite(weight_decay) || weight_decay < 0) {
    findings.push_back(
        absl::StrCat("weight decay: expected a number from 0 on, got ", weight_decay));
  }
  if (findings.empty()) {
    if (std::string finding = CheckTogether(settings); !finding.empty()) {
      findings.push_back(std::move(finding));
    }
  }
  if (findings.empty()) return settings;
  std::string text;
  for (const std::string& finding : findings) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", finding);
  }
  return absl::InvalidArgumentError(text);
}

absl::Status AddGroup(ParameterGroup group, const std::vector<std::string>& names,
                      OptimizerSettings& settings) {
  ASSIGN_OR_RETURN(const std::vector<std::string> matching, MatchingNames(group.pattern, names));
  if (group.pattern.empty() || matching.empty()) {
    return absl::NotFoundError(
        absl::StrCat("no tensor of the model matches \"", group.pattern, "\""));
  }
  group.tensors.clear();
  for (const std::string& name : matching) {
    if (settings.GroupOf(name) == nullptr) group.tensors.insert(name);
  }
  if (group.tensors.empty()) {
    return absl::AlreadyExistsError(absl::StrCat(
        "all tensors that \"", group.pattern,
        "\" matches are in groups before it, which come first; put it before them, or leave it "
        "out"));
  }
  settings.groups.push_back(std::move(group));
  return absl::OkStatus();
}

}  // namespace dsrun
