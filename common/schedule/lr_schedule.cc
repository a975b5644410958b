#include "common/schedule/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/schedule/deterministic_math.h"

namespace dsrun {
namespace {

using Type = ScheduleParam::Type;

constexpr double kNoLimit = -std::numeric_limits<double>::infinity();
constexpr double kPi = 3.14159265358979323846;
constexpr double kMostRate = 1e6;  // as --lr
constexpr double kMostBeta = 0.999;
constexpr double kLargestCount = 1e15;  // whole numbers up to here are exact, and sums of them

// A beta1: at 1 its correction would divide by 0.
ScheduleParam Momentum(std::string key, double fallback, std::string about) {
  return {std::move(key), Type::kNumber, fallback, /*required=*/false, 0, std::move(about), 1};
}

ScheduleParam Needed(std::string key, Type type, double least, std::string about) {
  return {std::move(key), type, 0, /*required=*/true, least, std::move(about)};
}

ScheduleParam Optional(std::string key, Type type, double fallback, double least,
                       std::string about) {
  return {std::move(key), type, fallback, /*required=*/false, least, std::move(about)};
}

std::vector<ScheduleParam> OurParams() {
  return {Needed("lr", Type::kRate, 0, "reached at the end of the warm-up"),
          Optional("min_lr", Type::kRate, 0, 0, "reached at the end of the decay"),
          Optional("warmup", Type::kCount, 0, 0, "steps of the linear warm-up"),
          Needed("steps", Type::kCount, 1, "after which the decay has ended")};
}

std::vector<ScheduleParam> With(std::vector<ScheduleParam> params, ScheduleParam more) {
  params.push_back(std::move(more));
  return params;
}

// `warmup_max_lr` of DeepSpeed's WarmupLR is the optimizer's rate where it is not given: whoever
// reads the configuration fills that in.
std::vector<ScheduleParam> WarmupParams(ScheduleParam max_lr) {
  return {Optional("warmup_min_lr", Type::kRate, 0, 0, "rate of the first two steps"),
          std::move(max_lr),
          Optional("warmup_num_steps", Type::kCount, 1000, 1, "steps of the warm-up"),
          Optional("warmup_type", Type::kWarmupType, kWarmupLog, 0, "log or linear")};
}

std::vector<ScheduleForm> Forms() {
  const std::string at_end = "rate at the end of the warm-up";
  const ScheduleParam total =
      Needed("total_num_steps", Type::kCount, 1, "after which the decay has ended");
  return {
      {"linear", OurParams()},
      {"cosine", OurParams()},
      {"constant", OurParams()},
      {"inverse-square-root", OurParams()},
      {"WSD", With(OurParams(), Needed("decay_steps", Type::kCount, 1,
                                       "the last steps, in which it decays linearly"))},
      {"WarmupLR", WarmupParams(Needed("warmup_max_lr", Type::kRate, 0, at_end))},
      {"WarmupDecayLR",
       With(WarmupParams(Optional("warmup_max_lr", Type::kRate, 0.001, 0, at_end)), total)},
      {"WarmupCosineLR",
       {Needed("lr", Type::kRate, 0, "the optimizer's rate, which the ratios count in"), total,
        Optional("warmup_min_ratio", Type::kNumber, 0, 0, "ratio at which the warm-up starts"),
        Optional("warmup_num_steps", Type::kCount, 1000, 1, "steps of the warm-up"),
        Optional("cos_min_ratio", Type::kNumber, 0.0001, 0, "ratio at which the decay ends"),
        Optional("warmup_type", Type::kWarmupType, kWarmupLog, 0, "log or linear")}},
      {"OneCycle",
       {Needed("cycle_min_lr", Type::kRate, 0, "rate at both ends of the cycle"),
        Needed("cycle_max_lr", Type::kRate, 0, "rate in the middle of the cycle"),
        Optional("decay_lr_rate", Type::kNumber, 0, 0, "how fast the rate decays after the cycle"),
        Optional("cycle_first_step_size", Type::kCount, 2000, 1, "steps in which it grows"),
        // -1: as the first.
        Optional("cycle_second_step_size", Type::kCount, -1, -1, "steps in which it falls"),
        Optional("cycle_first_stair_count", Type::kCount, 0, 0, "stairs on the way up; 0: none"),
        Optional("cycle_second_stair_count", Type::kCount, -1, -1, "stairs on the way down"),
        Optional("decay_step_size", Type::kCount, 0, 0, "unit of the decays; 0: no decay"),
        Optional("cycle_momentum", Type::kFlag, 1, 0, "beta1 moves the other way"),
        Momentum("cycle_min_mom", 0.8, "beta1 in the middle of the cycle"),
        Momentum("cycle_max_mom", 0.9, "beta1 at both ends of the cycle"),
        Optional("decay_mom_rate", Type::kNumber, 0, kNoLimit,
                 "how fast beta1 grows after the cycle; it stays in [0, 0.999]")}},
      {"LRRangeTest",
       {Optional("lr_range_test_min_lr", Type::kRate, 0.001, 0, "rate of the first step"),
        Optional("lr_range_test_step_size", Type::kCount, 2000, 1, "unit of the growth"),
        Optional("lr_range_test_step_rate", Type::kNumber, 1, 0, "growth in one unit"),
        Optional("lr_range_test_staircase", Type::kFlag, 0, 0, "grows at the ends of units")}},
  };
}

// "" where `value` may stand.
std::string Objection(const ScheduleParam& param, double value) {
  const auto expected = [&](const std::string& what) {
    return absl::StrCat(param.key, ": expected ", what, ", got ", value);
  };
  if (!std::isfinite(value)) return expected("a finite number");
  if (value < param.least) return expected(absl::StrCat("at least ", param.least));
  if (value >= param.below) return expected(absl::StrCat("below ", param.below));
  switch (param.type) {
    case Type::kNumber:
      return "";
    case Type::kRate:
      return value <= kMostRate ? "" : expected(absl::StrCat("at most ", kMostRate));
    case Type::kCount:
      if (value != std::floor(value) || value > kLargestCount) {
        return expected(absl::StrCat("a whole number up to ", kLargestCount));
      }
      return "";
    case Type::kFlag:
    case Type::kWarmupType:
      return value == 0 || value == 1 ? "" : expected("0 or 1");
  }
  return "";
}

std::string Names() {
  std::string names;
  for (const ScheduleForm& form : ScheduleForms()) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", form.name);
  }
  return names;
}

}  // namespace

const std::vector<ScheduleForm>& ScheduleForms() {
  static const auto& forms = *new std::vector<ScheduleForm>(Forms());
  return forms;
}

const ScheduleForm* FindScheduleForm(const std::string& name) {
  for (const ScheduleForm& form : ScheduleForms()) {
    if (form.name == name) return &form;
  }
  return nullptr;
}

const ScheduleParam* FindScheduleParam(const ScheduleForm& form, const std::string& key) {
  for (const ScheduleParam& param : form.params) {
    if (param.key == key) return &param;
  }
  return nullptr;
}

absl::StatusOr<LrSchedule> LrSchedule::Create(const std::string& name,
                                              const std::map<std::string, double>& params) {
  const ScheduleForm* const form = FindScheduleForm(name);
  if (form == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "learning rate schedule \"", name, "\": there is none of that name; there are ", Names()));
  }
  std::string findings;
  const auto object = [&](const std::string& finding) {
    if (!finding.empty()) absl::StrAppend(&findings, findings.empty() ? "" : "; ", finding);
  };
  std::map<std::string, double> all;
  for (const ScheduleParam& param : form->params) {
    const auto given = params.find(param.key);
    if (given == params.end()) {
      if (param.required) object(absl::StrCat(param.key, ": must be given"));
      all[param.key] = param.fallback;
      continue;
    }
    object(Objection(param, given->second));
    all[param.key] = given->second;
  }
  for (const auto& [key, value] : params) {
    if (!all.contains(key)) object(absl::StrCat(key, ": there is no such parameter"));
  }
  if (!findings.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("learning rate schedule ", name, ": ", findings));
  }
  return LrSchedule(form, std::move(all));
}

ScheduledRates LrSchedule::At(int64_t step) const {
  // DeepSpeed's counter is that of steps finished before the last one.
  const double it = static_cast<double>(step) - 1;
  const std::string& name = form_->name;
  if (name == "WarmupLR" || name == "WarmupDecayLR") return {.lr = WarmedUp(it)};
  if (name == "WarmupCosineLR") return {.lr = WarmupCosine(it)};
  if (name == "OneCycle") return OneCycle(it);
  if (name == "LRRangeTest") return {.lr = RangeTest(it)};
  return {.lr = WarmThenDecay(step)};
}

double LrSchedule::WarmThenDecay(int64_t step) const {
  const double lr = Param("lr");
  const double min_lr = Param("min_lr");
  const int64_t warmup = Count("warmup");
  const int64_t steps = Count("steps");
  const std::string& name = form_->name;
  if (step < warmup && step < steps) {
    return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  }
  if (name == "constant") return lr;
  if (name == "inverse-square-root") {
    const auto from = static_cast<double>(std::max<int64_t>(warmup, 1));
    return std::max(min_lr, lr * std::sqrt(from) / std::sqrt(static_cast<double>(step + 1)));
  }
  if (step >= steps) return min_lr;
  const int64_t decay_from =
      name == "WSD" ? std::max(warmup, steps - Count("decay_steps")) : warmup;
  if (step < decay_from) return lr;
  const double left = static_cast<double>(steps - step) / static_cast<double>(steps - decay_from);
  if (name != "cosine") return min_lr + (lr - min_lr) * left;
  return min_lr + (lr - min_lr) * ((1 + DeterministicCos(kPi * (1 - left))) / 2);
}

namespace {

// Of a warm-up over `steps`, at `it` < steps.
double Warmth(double type, double it, double steps) {
  if (type == kWarmupLinear) return it / steps;
  return 1.0 / DeterministicLog(steps) * DeterministicLog(it + 1);
}

}  // namespace

double LrSchedule::WarmedUp(double it) const {
  const double least = Param("warmup_min_lr");
  const double span = Param("warmup_max_lr") - least;
  const double warmup = std::max(2.0, Param("warmup_num_steps"));
  if (it < 0) return least;
  if (it < warmup) return least + span * Warmth(Param("warmup_type"), it, warmup);
  if (form_->name == "WarmupLR") return least + span;
  const double total = Param("total_num_steps");
  return least + span * std::max(0.0, (total - it) / std::max(1.0, total - warmup));
}

double LrSchedule::WarmupCosine(double it) const {
  const double lr = Param("lr");
  const double warmup = std::max(2.0, Param("warmup_num_steps"));
  if (it < 0) return 0;
  if (it < warmup) {
    const double from = Param("warmup_min_ratio");
    return lr * (from + Warmth(Param("warmup_type"), it, warmup) * (1. - from));
  }
  const double least = Param("cos_min_ratio");
  const double progress =
      std::min(1.0, (it - warmup + 1) / std::max(1.0, Param("total_num_steps") - warmup));
  const double ratio = (1 + DeterministicCos(kPi * progress)) / 2;
  return lr * std::max(0.0, least + (1. - least) * ratio);
}

double LrSchedule::RangeTest(double it) const {
  const double least = Param("lr_range_test_min_lr");
  if (it < 0) return least;
  const double units = (it + 1) / Param("lr_range_test_step_size");
  const bool stairs = Param("lr_range_test_staircase") != 0;
  return least * (1 + Param("lr_range_test_step_rate") * (stairs ? std::floor(units) : units));
}

ScheduledRates LrSchedule::OneCycle(double it) const {
  const double first = Param("cycle_first_step_size");
  const double second =
      Param("cycle_second_step_size") < 0 ? first : Param("cycle_second_step_size");
  const double first_stairs = Param("cycle_first_stair_count");
  const double second_stairs =
      Param("cycle_second_stair_count") < 0 ? first_stairs : Param("cycle_second_stair_count");
  const double total = first + second;
  const double min_lr = Param("cycle_min_lr");
  const double max_lr = Param("cycle_max_lr");
  const double min_beta = Param("cycle_min_mom");
  const double max_beta = Param("cycle_max_mom");
  ScheduledRates rates{.sets_betas = Param("cycle_momentum") != 0, .beta2 = 0.99};
  if (it < 0) {  // before DeepSpeed's first step(): as its constructor leaves it
    rates.lr = min_lr;
    rates.beta1 = min_beta;
    return rates;
  }
  if (it < total) {
    const double batch = it + 1;
    const double x = 1. + batch / total - std::floor(1 + batch / total);
    const double ratio = first / total;
    const bool up = x <= ratio;
    double scale = up ? x / ratio : (x - 1) / (ratio - 1);
    const double stairs = up ? first_stairs : second_stairs;
    if (stairs > 0) {
      const double in_cycle = std::fmod(batch, total);
      const double position =
          in_cycle <= first ? in_cycle * stairs / first : (total - in_cycle) * stairs / second;
      scale = std::floor(position) / stairs;
    }
    rates.lr = min_lr + (max_lr - min_lr) * scale;
    rates.beta1 = max_beta - (max_beta - min_beta) * scale;
    return rates;
  }
  const double unit = Param("decay_step_size");
  const double after = unit == 0 ? 0 : (it - total + 1) / unit;
  rates.lr = min_lr / (1 + Param("decay_lr_rate") * after);
  // DeepSpeed lets it pass 1, where AdamW's correction of the moments turns round.
  const double decayed = max_beta * (1 + Param("decay_mom_rate") * after);
  rates.beta1 = std::clamp(decayed, 0.0, std::max(max_beta, kMostBeta));
  return rates;
}

}  // namespace dsrun
