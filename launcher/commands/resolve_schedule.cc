// The learning rate's schedule: our three flags, or one of DeepSpeed's with its own parameters.

#include <charconv>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "common/config/nearest.h"
#include "common/schedule/lr_schedule.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;
constexpr const char* kParamFlag = "--lr-schedule-param";

// The number that `text` is for a parameter of that type.
std::optional<double> ParamValue(ScheduleParam::Type type, const std::string& text) {
  if (type == ScheduleParam::Type::kWarmupType) {
    if (text == "log") return kWarmupLog;
    if (text == "linear") return kWarmupLinear;
    return std::nullopt;
  }
  if (type == ScheduleParam::Type::kFlag) {
    if (text == "true" || text == "on") return 1;
    if (text == "false" || text == "off") return 0;
  }
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::string ExpectedOf(ScheduleParam::Type type) {
  switch (type) {
    case ScheduleParam::Type::kNumber:
    case ScheduleParam::Type::kRate:
      return "a number";
    case ScheduleParam::Type::kCount:
      return "a whole number";
    case ScheduleParam::Type::kFlag:
      return "true or false";
    case ScheduleParam::Type::kWarmupType:
      return "log or linear";
  }
  return "";
}

class ScheduleResolver {
 public:
  ScheduleResolver(ResolveContext& context, double preset_lr)
      : c_(context), train_(*context.resolved.job.mutable_train()), preset_lr_(preset_lr) {}

  void Resolve() {
    const std::string name = c_.values.Text("lr-schedule").value_or("linear");
    const ScheduleForm* const form = Form(name);
    if (form == nullptr) return;
    is_ours_ = FindScheduleParam(*form, "warmup") != nullptr;
    Flags();
    Given(*form);
    Derived(*form);
    Betas(*form);
    const auto schedule = LrSchedule::Create(name, params_);
    if (!schedule.ok()) {
      // What a flag of its own got wrong was said there.
      if (!wrong_) Error("--lr-schedule", std::string(schedule.status().message()));
      return;
    }
    train_.mutable_lr_schedule()->set_name(name);
    for (const auto& [key, value] : schedule->params()) {
      (*train_.mutable_lr_schedule()->mutable_params())[key] = value;
    }
  }

 private:
  const ScheduleForm* Form(const std::string& name) {
    const ScheduleForm* const form = FindScheduleForm(name);
    if (form != nullptr) return form;
    std::vector<std::string> names;
    std::string all;
    for (const ScheduleForm& one : ScheduleForms()) {
      names.push_back(one.name);
      all += (all.empty() ? "" : ", ") + one.name;
    }
    Error("--lr-schedule",
          "expected one of " + all + ", got \"" + name + "\"" + DidYouMean(name, names));
    return nullptr;
  }

  // --lr, --min-lr, --lr-warmup-iters. The first is the optimizer's, whatever the schedule.
  void Flags() {
    const int64_t iters = train_.train_iters();
    train_.set_lr(c_.values.Real("lr", 0, 1e6).value_or(preset_lr_));
    if (!is_ours_) {
      for (const char* const flag : {"min-lr", "lr-warmup-iters"}) {
        if (c_.values.Has(flag)) {
          Error(std::string("--") + flag, "has no effect with --lr-schedule " +
                                              c_.values.Text("lr-schedule").value_or("") +
                                              "; give its own parameters by " + kParamFlag);
        }
      }
      return;
    }
    train_.set_min_lr(c_.values.Real("min-lr", 0, 1e6).value_or(0));
    if (c_.values.Has("min-lr") && c_.values.Text("lr-schedule") == "constant") {
      Error("--min-lr", "has no effect with --lr-schedule constant; leave it out");
    }
    if (train_.min_lr() > train_.lr()) {
      Error("--min-lr", "must not be above --lr (" + std::to_string(train_.lr()) + "), got " +
                            c_.values.Text("min-lr").value_or(""));
    }
    train_.set_lr_warmup_iters(c_.values.Int("lr-warmup-iters", 0, kMaxSize).value_or(iters / 10));
    if (train_.lr_warmup_iters() > iters) {
      Error("--lr-warmup-iters", "must not be above --train-iters (" + std::to_string(iters) +
                                     "), got " + std::to_string(train_.lr_warmup_iters()));
    }
  }

  void Given(const ScheduleForm& form) {
    std::vector<std::string> keys;
    for (const ScheduleParam& param : form.params) keys.push_back(param.key);
    for (const std::string& text : c_.values.Texts("lr-schedule-param")) {
      const size_t equals = text.find('=');
      const std::string key = text.substr(0, equals);
      const ScheduleParam* const param = FindScheduleParam(form, key);
      if (equals == std::string::npos) {
        Error(kParamFlag, "expected KEY=VALUE, got \"" + text + "\"");
      } else if (param == nullptr) {
        Error(kParamFlag, form.name + " has no parameter \"" + key + "\"" + DidYouMean(key, keys));
      } else if (is_ours_ && key != "decay_steps") {
        Error(kParamFlag, key + " of " + form.name +
                              " has a flag of its own: --lr, --min-lr, --lr-warmup-iters, "
                              "--train-iters");
      } else if (params_.contains(key)) {
        Error(kParamFlag, key + " is given twice");
      } else if (const auto value = ParamValue(param->type, text.substr(equals + 1))) {
        params_[key] = *value;
      } else {
        Error(kParamFlag, key + ": expected " + ExpectedOf(param->type) + ", got \"" +
                              text.substr(equals + 1) + "\"");
      }
    }
  }

  // What the flags say already.
  void Derived(const ScheduleForm& form) {
    const auto steps = static_cast<double>(train_.train_iters());
    const std::map<std::string, double> derived = {
        {"lr", train_.lr()},
        {"min_lr", train_.min_lr()},
        {"warmup", static_cast<double>(train_.lr_warmup_iters())},
        {"steps", steps},
        {"total_num_steps", steps}};
    for (const auto& [key, value] : derived) {
      if (FindScheduleParam(form, key) != nullptr) params_.emplace(key, value);
    }
    // DeepSpeed's default is the optimizer's rate for WarmupLR alone, and 0.001 for the other;
    // whoever writes --lr means it.
    const bool has_rate =
        FindScheduleParam(form, "warmup_max_lr") != nullptr && !params_.contains("warmup_max_lr");
    const bool given = c_.values.Has("lr");
    if (has_rate && (form.name == "WarmupLR" || given)) {
      params_.emplace("warmup_max_lr", train_.lr());
    }
    if (given && !has_rate && FindScheduleParam(form, "lr") == nullptr) {
      Error("--lr", "has no effect with --lr-schedule " + form.name +
                        "; give its own parameters by " + kParamFlag);
    }
  }

  // OneCycle's stand in place of the optimizer's.
  void Betas(const ScheduleForm& form) {
    if (form.name != "OneCycle") return;
    const auto moves = params_.find("cycle_momentum");
    if (moves != params_.end() && moves->second == 0) return;
    for (const char* const flag : {"adam-beta1", "adam-beta2"}) {
      if (!c_.values.Has(flag)) continue;
      Error(std::string("--") + flag,
            std::string("has no effect with --lr-schedule OneCycle, which moves beta1 and sets "
                        "beta2; leave it out, or give ") +
                kParamFlag + " cycle_momentum=false");
    }
  }

  void Error(const std::string& flag, const std::string& text) {
    wrong_ = true;
    c_.findings.AddFlag(flag, text);
  }

  ResolveContext& c_;
  proto::TrainSpec& train_;
  const double preset_lr_;
  bool is_ours_ = true;
  bool wrong_ = false;
  std::map<std::string, double> params_;
};

}  // namespace

void ResolveSchedule(ResolveContext& context, double preset_lr) {
  ScheduleResolver(context, preset_lr).Resolve();
}

}  // namespace dsrun::launcher
