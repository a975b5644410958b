#include "launcher/commands/deepspeed_merge.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/schedule/lr_schedule.h"

namespace dsrun::launcher {
namespace {

constexpr const char* kOfDynamicScale[] = {"initial-scale-power", "loss-scale-window", "hysteresis",
                                           "min-loss-scale", "consecutive-hysteresis"};

std::string Typed(const std::string& name, const std::string& value, bool negated) {
  return absl::StrCat("--", negated ? "no-" : "", name, value.empty() ? "" : "=", value);
}
std::string Typed(const ImpliedFlag& implied) {
  return Typed(implied.flag, implied.value, implied.negated);
}

std::string Origin(const SourceText& text, const ImpliedFlag& implied) {
  if (!implied.place) {
    return absl::StrCat(implied.key, ", which ", text.name(), " leaves to DeepSpeed's default");
  }
  return absl::StrCat(implied.key, " (", text.name(), ":", text.lines()[implied.place->line].number,
                      ")");
}

// Whether one of the typed KEY=VALUE[,KEY=VALUE...] of that flag has the key.
bool HasKey(const FlagUses& typed, const std::string& flag, const std::string& key) {
  return std::ranges::any_of(typed.all(), [&](const FlagUse& use) {
    return use.option->name == flag && (use.value.starts_with(key + "=") ||
                                        use.value.find("," + key + "=") != std::string::npos);
  });
}

std::string KeyOf(const ImpliedFlag& implied) {
  return implied.value.substr(0, implied.value.find('='));
}

class Merge {
 public:
  Merge(const DeepSpeedConfig& config, const FlagUses& typed) : config_(config), typed_(typed) {}

  // The typed flag that stands in the place of an implied one; empty: none does.
  std::string ReplacedBy(const ImpliedFlag& implied, const Option& option) const {
    const std::string& flag = implied.flag;
    // Parameters belong to the name beside them, and so does a warm-up that is implied.
    if (flag == "optimizer-param") {
      if (typed_.Has("optimizer")) return "--optimizer";
      const std::string old = "adam-" + KeyOf(implied);
      if (typed_.Has(old)) return "--" + old;
    }
    if (flag == "lr-schedule-param" || flag == "lr-warmup-iters") {
      if (typed_.Has("lr-schedule")) return "--lr-schedule";
      if (KeyOf(implied) == "warmup_max_lr" && typed_.Has("lr")) return "--lr";
    }
    if (option.kind == Option::Kind::kRepeated) {
      return HasKey(typed_, flag, KeyOf(implied)) ? "--" + flag : "";
    }
    if (flag == "gradient-accumulation-steps" && !implied.place) {
      for (const char* const other : {"global-batch-size", "micro-batch-size"}) {
        if (typed_.Has(other)) return std::string("--") + other;
      }
    }
    if (flag == "lr-schedule" && !implied.place && typed_.Has("min-lr")) return "--min-lr";
    if (IsOfDynamicScale(flag) && typed_.Has("loss-scale")) {
      const FlagUse* const scale = typed_.Last("loss-scale");
      if (scale->value != "dynamic") return Typed("loss-scale", scale->value, false);
    }
    const FlagUse* const use = typed_.Last(flag);
    return use == nullptr ? "" : Typed(flag, use->value, use->negated);
  }

  // Why it has nothing to say beside the rest of both; empty: it has.
  std::string Idle(const ImpliedFlag& implied) const {
    const std::string& flag = implied.flag;
    if ((IsOfDynamicScale(flag) || flag == "loss-scale") && Value("precision") != "fp16") {
      return "the precision is not fp16";
    }
    if (flag.starts_with("zero3-") && Value("zero-stage") != "3") return "the stage is not 3";
    if (flag == "lr" && !UsesRate()) return "the scheduler has rates of its own";
    const bool beta =
        flag == "optimizer-param" && (KeyOf(implied) == "beta1" || KeyOf(implied) == "beta2");
    return beta && MovesBetas() ? "OneCycle moves beta1 and sets beta2" : "";
  }

 private:
  static bool IsOfDynamicScale(const std::string& flag) {
    return std::ranges::find(kOfDynamicScale, flag) != std::end(kOfDynamicScale);
  }

  // As typed, else as implied; empty: neither.
  std::string Value(const std::string& flag) const {
    if (const FlagUse* const use = typed_.Last(flag)) return use->value;
    std::string value;
    for (const ImpliedFlag& implied : config_.flags) {
      if (implied.flag == flag) value = implied.value;
    }
    return value;
  }
  bool HasScheduleParam(const std::string& key) const {
    return HasKey(typed_, "lr-schedule-param", key) ||
           std::ranges::any_of(config_.flags, [&](const ImpliedFlag& implied) {
             return implied.flag == "lr-schedule-param" && KeyOf(implied) == key;
           });
  }
  // Of the file's schedule: who types another one is told by the resolver.
  bool UsesRate() const {
    const ScheduleForm* const form = FindScheduleForm(Value("lr-schedule"));
    if (form == nullptr || typed_.Has("lr-schedule")) return true;
    if (FindScheduleParam(*form, "lr") != nullptr) return true;
    return FindScheduleParam(*form, "warmup_max_lr") != nullptr &&
           !HasScheduleParam("warmup_max_lr");
  }
  bool MovesBetas() const {
    if (Value("lr-schedule") != "OneCycle") return false;
    const auto off = [](const std::string& value) {
      return value.find("cycle_momentum=0") != std::string::npos ||
             value.find("cycle_momentum=false") != std::string::npos;
    };
    return std::ranges::none_of(typed_.all(), [&](const FlagUse& use) { return off(use.value); }) &&
           std::ranges::none_of(config_.flags,
                                [&](const ImpliedFlag& implied) { return off(implied.value); });
  }

  const DeepSpeedConfig& config_;
  const FlagUses& typed_;
};

// What a finding about `flag` is about, where nobody typed it: the parameter whose name the message
// begins with, else the last of that flag.
const ImpliedFlag* OriginOf(const std::string& flag, const std::string& message,
                            const DeepSpeedConfig& config, const FlagUses& typed) {
  const std::string word = message.substr(0, message.find_first_of(": "));
  const ImpliedFlag* of_flag = nullptr;
  for (const ImpliedFlag& implied : config.flags) {
    const bool repeated = implied.flag.ends_with("-param");
    if (repeated && implied.value.starts_with(word + "=") && !HasKey(typed, implied.flag, word)) {
      return &implied;
    }
    if (!repeated && "--" + implied.flag == flag && !typed.Has(implied.flag)) of_flag = &implied;
  }
  return of_flag;
}

}  // namespace

void PutFlags(const SourceText& text, const DeepSpeedConfig& config, FlagUses& flags,
              std::vector<std::string>& notes) {
  const Merge merge(config, flags);
  FlagUses all;
  for (const ImpliedFlag& implied : config.flags) {
    const Option* const option = FindOption(implied.flag, /*train=*/true);
    if (option == nullptr) continue;  // a test compares the tables
    const std::string instead = merge.ReplacedBy(implied, *option);
    const std::string idle = instead.empty() ? merge.Idle(implied) : "";
    if (!instead.empty()) {
      if (!implied.place) continue;
      notes.push_back(instead + " replaces " + Typed(implied) + " from " + Origin(text, implied));
    } else if (!idle.empty()) {
      if (!implied.place) continue;
      notes.push_back(At(text, *implied.place, implied.key + " has no effect: " + idle).Headline());
    } else {
      all.Add({option, implied.value, implied.negated});
      if (!implied.place) notes.push_back(Typed(implied) + " from " + Origin(text, implied));
    }
  }
  for (const FlagUse& use : flags.all()) all.Add(use);
  flags = std::move(all);
}

Findings PointedInto(const SourceText& text, const DeepSpeedConfig& config, const FlagUses& typed,
                     const Findings& findings) {
  Findings pointed;
  for (Diagnostic one : findings.all()) {
    if (one.line != 0) {
      pointed.Add(std::move(one));
      continue;
    }
    if (one.file == "--deepspeed_config" && one.message.starts_with("elasticity: ")) {
      pointed.Add(At(text, config.elastic_place, one.message));
      continue;
    }
    const ImpliedFlag* const implied = OriginOf(one.file, one.message, config, typed);
    if (implied == nullptr) {
      pointed.Add(std::move(one));
      continue;
    }
    const std::string message = absl::StrCat(implied->place ? implied->key : Origin(text, *implied),
                                             " (", one.file, "): ", one.message);
    Diagnostic at = implied->place ? At(text, *implied->place, message) : one;
    at.message = message;
    at.warning = one.warning;
    pointed.Add(std::move(at));
  }
  return pointed;
}

}  // namespace dsrun::launcher
