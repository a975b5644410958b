// The optimizer: one of the table (common/plan/optimizer_settings.h), its parameters, and parameter
// groups.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/config/nearest.h"
#include "common/format/run_differences.h"
#include "common/model/model_plan.h"
#include "common/plan/optimizer_settings.h"
#include "common/schedule/schedule_of_spec.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr const char* kFlag = "--optimizer";
constexpr const char* kParamFlag = "--optimizer-param";
constexpr const char* kGroupFlag = "--param-group";

// Flags from before there was a table, of AdamW and whichever optimizer has such a parameter.
struct OldFlag {
  const char* flag;
  const char* key;
  double least;
  double most;
  bool below;
};
constexpr OldFlag kOldFlags[] = {{"adam-beta1", "beta1", 0, 1, true},
                                 {"adam-beta2", "beta2", 0, 1, true},
                                 {"adam-eps", "eps", 1e-30, 1, false}};

std::optional<double> Number(std::string_view text, bool is_flag) {
  if (is_flag && (text == "true" || text == "on")) return 1;
  if (is_flag && (text == "false" || text == "off")) return 0;
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

// Parts between commas.
std::vector<std::string> Parts(const std::string& text) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at = 0; at <= text.size(); ++at) {
    if (at < text.size() && text[at] != ',') continue;
    parts.push_back(text.substr(begin, at - begin));
    begin = at + 1;
  }
  return parts;
}

class OptimizerResolver {
 public:
  OptimizerResolver(ResolveContext& context, const ModelSpec* model, const Manifest* manifest)
      : c_(context),
        train_(*context.resolved.job.mutable_train()),
        model_(model),
        manifest_(manifest) {}

  void Resolve() {
    const OptimizerForm* const form = Form();
    if (form == nullptr) return;
    OldFlags(*form);
    Given(*form);
    Betas(*form);
    train_.set_weight_decay(c_.values.Real("weight-decay", 0, 1e6).value_or(form->weight_decay));
    auto settings = CreateOptimizer(std::string(form->name), params_, train_.weight_decay());
    if (!settings.ok()) {
      // What a flag of its own got wrong was said there.
      if (!wrong_) Error(kParamFlag, std::string(settings.status().message()));
      return;
    }
    if (!RatesBeside(*settings)) return;
    ToSpec(*settings);
    Groups(*settings);
    Compare(*settings);
  }

 private:
  // What is not said is the checkpoint's.
  const OptimizerForm* Form() {
    std::string name = c_.values.Text("optimizer").value_or(std::string(kAdamW.name));
    if (!c_.values.Has("optimizer") && manifest_ != nullptr) name = manifest_->facts.optimizer.name;
    const OptimizerForm* const form = FindOptimizer(name);
    if (form != nullptr) return form;
    std::vector<std::string> names;
    std::string all;
    for (const OptimizerForm& one : OptimizerForms()) {
      names.emplace_back(one.name);
      all += (all.empty() ? "" : ", ") + names.back();
    }
    Error(kFlag, "expected one of " + all + ", got " + Quoted(name) + DidYouMean(name, names) +
                     (c_.values.Has("optimizer") ? "" : " (the checkpoint's)"));
    return nullptr;
  }

  void OldFlags(const OptimizerForm& form) {
    for (const OldFlag& old : kOldFlags) {
      if (!c_.values.Has(old.flag)) continue;
      const auto value = c_.values.Real(old.flag, old.least, old.most, old.below);
      if (!value.has_value()) {
        wrong_ = true;
      } else if (form.Find(old.key) == nullptr) {
        Error(std::string("--") + old.flag,
              "has no effect with --optimizer " + std::string(form.name) + "; leave it out");
      } else {
        params_[old.key] = *value;
      }
    }
  }

  void Given(const OptimizerForm& form) {
    std::vector<std::string> keys;
    for (const OptimizerParam& param : form.params) keys.emplace_back(param.key);
    for (const std::string& list : c_.values.Texts("optimizer-param")) {
      for (const std::string& text : Parts(list)) GivenOne(form, keys, text);
    }
  }

  void GivenOne(const OptimizerForm& form, const std::vector<std::string>& keys,
                const std::string& text) {
    const size_t equals = text.find('=');
    const std::string key = text.substr(0, equals);
    const OptimizerParam* const param = form.Find(key);
    if (equals == std::string::npos) {
      Error(kParamFlag, "expected KEY=VALUE, got " + Quoted(text));
    } else if (param == nullptr && (key == "weight_decay" || key == "lr")) {
      Error(kParamFlag, key + " has a flag of its own: --" + (key == "lr" ? key : "weight-decay"));
    } else if (param == nullptr) {
      Error(kParamFlag,
            std::string(form.name) + " has no parameter " + Quoted(key) + DidYouMean(key, keys));
    } else if (params_.contains(key)) {
      Error(kParamFlag, key + " is given twice");
    } else if (!param->words.empty()) {
      GivenWord(*param, text.substr(equals + 1));
    } else if (const auto value =
                   Number(std::string_view(text).substr(equals + 1), param->is_flag)) {
      params_[key] = *value;
    } else {
      Error(kParamFlag, key + ": expected " + (param->is_flag ? "true or false" : "a number") +
                            ", got " + Quoted(text.substr(equals + 1)));
    }
  }

  void GivenWord(const OptimizerParam& param, const std::string& word) {
    std::vector<std::string> words;
    std::string all;
    for (const std::string_view one : param.words) {
      words.emplace_back(one);
      all += (all.empty() ? "" : " or ") + words.back();
    }
    const auto found = std::find(words.begin(), words.end(), word);
    if (found == words.end()) {
      Error(kParamFlag, std::string(param.key) + ": expected " + all + ", got " + Quoted(word) +
                            DidYouMean(word, words));
      return;
    }
    params_[std::string(param.key)] = static_cast<double>(found - words.begin());
  }

  // Rates that stand beside --lr mean nothing where the schedule has rates of its own.
  bool RatesBeside(OptimizerSettings& settings) {
    const auto& of_schedule = train_.lr_schedule().params();
    const auto is_rate = [&](const char* key) {
      const auto found = of_schedule.find(key);
      return found != of_schedule.end() && found->second == train_.lr();
    };
    const bool follows = is_rate("lr") || is_rate("warmup_max_lr");
    bool good = true;
    for (const OptimizerParam& param : settings.form->params) {
      const std::string key(param.key);
      if (!param.optional || !settings.params.contains(key) || follows) continue;
      good = false;
      Error(kParamFlag, key + " stands beside --lr, which has no effect with --lr-schedule " +
                            train_.lr_schedule().name() + "; leave it out, or give --param-group");
    }
    if (!good) return false;
    const absl::Status set = SetRateFactors(train_.lr(), settings);
    if (!set.ok()) Error(kParamFlag, std::string(set.message()));
    return set.ok();
  }

  // OneCycle moves them.
  void Betas(const OptimizerForm& form) {
    const auto schedule = ScheduleOfSpec(train_);
    if (!schedule.ok() || !schedule->At(0).sets_betas) return;
    if (form.Find("beta2") == nullptr) {
      Error("--lr-schedule", schedule->name() + " moves betas, which --optimizer " +
                                 std::string(form.name) +
                                 " has not; give --lr-schedule-param cycle_momentum=false");
    }
    for (const char* const key : {"beta1", "beta2"}) {
      if (!params_.contains(key) || c_.values.Has(std::string("adam-") + key)) continue;
      Error(kParamFlag, std::string(key) + " has no effect with --lr-schedule " + schedule->name() +
                            "; leave it out, or give --lr-schedule-param cycle_momentum=false");
    }
  }

  void ToSpec(const OptimizerSettings& settings) {
    proto::OptimizerSpec& spec = *train_.mutable_optimizer();
    spec.set_name(std::string(settings.form->name));
    for (const auto& [key, value] : settings.params) (*spec.mutable_params())[key] = value;
    const auto old = [&](const char* key) {
      const auto found = settings.params.find(key);
      return found == settings.params.end() ? 0 : found->second;
    };
    train_.set_adam_beta1(old("beta1"));
    train_.set_adam_beta2(old("beta2"));
    train_.set_adam_eps(old("eps"));
  }

  // 'PATTERN:lr=0.1,weight-decay=0', in the order in which they are given.
  void Groups(OptimizerSettings& settings) {
    const std::vector<std::string> texts = c_.values.Texts("param-group");
    if (model_ == nullptr) return;
    std::vector<std::string> names;
    for (const LogicalTensor& tensor : LogicalTensors(*model_)) names.push_back(tensor.name);
    for (const std::string& text : texts) {
      auto group = Parse(text);
      if (!group.has_value()) continue;
      const absl::Status added = AddGroup(*group, names, settings);
      if (absl::IsNotFound(added)) {
        Error(kGroupFlag, "no tensor of the model matches " + Quoted(group->pattern) +
                              NearNames(group->pattern, names));
      } else if (absl::IsInvalidArgument(added)) {
        Error(kGroupFlag, "expected a regular expression (ECMAScript), got " +
                              Quoted(group->pattern) + ": " + std::string(added.message()));
      } else if (!added.ok()) {
        Error(kGroupFlag, std::string(added.message()));
      } else if (const ParameterGroup& last = settings.groups.back(); AllFrozen(last)) {
        Error(kGroupFlag, "--freeze freezes " +
                              Counted(static_cast<int64_t>(last.tensors.size()), "tensor") +
                              " of " + Quoted(last.pattern) + ", all there are; leave it out");
      } else {
        proto::ParameterGroup& out = *train_.mutable_optimizer()->add_groups();
        out.set_pattern(last.pattern);
        out.set_lr_scale(last.lr_scale);
        if (last.weight_decay.has_value()) out.set_weight_decay(*last.weight_decay);
      }
    }
  }

  std::optional<ParameterGroup> Parse(const std::string& text) {
    const auto wrong = [&](const std::string& why) {
      Error(kGroupFlag, "expected PATTERN:lr=X,weight-decay=X (one of them or both), got " +
                            Quoted(text) + why);
      return std::nullopt;
    };
    // An expression may have colons, a setting has none.
    const size_t colon = text.rfind(':');
    if (colon == std::string::npos) return wrong("");
    ParameterGroup group{.pattern = text.substr(0, colon), .weight_decay = {}, .tensors = {}};
    std::set<std::string> seen;
    for (const std::string& part : Parts(text.substr(colon + 1))) {
      const size_t equals = part.find('=');
      std::string key = part.substr(0, equals);
      if (key == "weight_decay") key = "weight-decay";
      if (equals == std::string::npos) return wrong("");
      if (key != "lr" && key != "weight-decay") {
        return wrong(": there is no setting " + Quoted(key) +
                     DidYouMean(key, {"lr", "weight-decay"}));
      }
      if (!seen.insert(key).second) return wrong(": " + key + " is given twice");
      const auto value = Number(std::string_view(part).substr(equals + 1), /*is_flag=*/false);
      if (!value.has_value() || *value < 0 || *value > 1e6) {
        return wrong(": " + key + " is a number from 0 to 1000000");
      }
      if (key == "lr") group.lr_scale = *value;
      if (key == "weight-decay") group.weight_decay = *value;
    }
    return group;
  }

  bool AllFrozen(const ParameterGroup& group) const {
    const std::set<std::string> frozen(train_.frozen().begin(), train_.frozen().end());
    for (const std::string& tensor : group.tensors) {
      if (!frozen.contains(tensor)) return false;
    }
    return true;
  }

  void Compare(const OptimizerSettings& settings) {
    if (manifest_ == nullptr) return;
    std::vector<std::string> slots;
    const OptimizerPlan plan = settings.plan();
    for (const OptimizerSlot& slot : plan.slots) slots.emplace_back(slot.name);
    const absl::Status same =
        CheckOptimizer(manifest_->facts.optimizer, std::string(plan.name), slots);
    if (same.ok()) return;
    Error("--load", train_.load_dir() + "/" + ManifestName(manifest_->facts.key) + ": " +
                        std::string(same.message()));
  }

  void Error(const std::string& flag, const std::string& text) {
    wrong_ = true;
    c_.findings.AddFlag(flag, text);
  }

  ResolveContext& c_;
  proto::TrainSpec& train_;
  const ModelSpec* const model_;
  const Manifest* const manifest_;
  bool wrong_ = false;
  std::map<std::string, double> params_;
};

}  // namespace

void ResolveOptimizer(ResolveContext& context, const ModelSpec* model, const Manifest* manifest) {
  OptimizerResolver(context, model, manifest).Resolve();
}

}  // namespace dsrun::launcher
