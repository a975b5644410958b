// LrSchedule: the learning rate by step. Pure, and the same bits on every machine: logarithm and
// cosine are our own (deterministic_math.h), since the C library's differ between processors.
//
// Update number `step` counts from 0. Two families:
//
//   ours and Megatron's   linear, cosine, constant, inverse-square-root, WSD (warm-up, stable,
//                         decay: Hu et al., 2024): a linear warm-up over `warmup` steps, reached at
//                         its end, then the decay, which ends at `min_lr` after `steps`.
//   DeepSpeed's           WarmupLR, WarmupDecayLR, WarmupCosineLR, OneCycle (Smith, 2018),
//                         LRRangeTest, with its keys and defaults, and what its code does: the
//                         warm-ups spend their first two steps at the minimum, for instance.
//
// A schedule is a name and named numbers, which all come from one table, so that whoever reads
// flags or JSON, whoever explains them and the engine cannot differ.

#ifndef DSRUN_COMMON_SCHEDULE_LR_SCHEDULE_H_
#define DSRUN_COMMON_SCHEDULE_LR_SCHEDULE_H_

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace dsrun {

struct ScheduleParam {
  // A count is whole; a learning rate is bounded as --lr is; kWarmupType: below.
  enum class Type { kNumber, kRate, kCount, kFlag, kWarmupType };

  std::string key;  // as DeepSpeed's JSON or our flag spells it
  Type type;
  double fallback;    // ignored where `required`
  bool required;      // no default
  double least;       // smallest value that is allowed
  std::string about;  // for people, one phrase
  double below = std::numeric_limits<double>::infinity();
};

// Of Type::kWarmupType: how the rate grows in a warm-up.
inline constexpr double kWarmupLog = 0;
inline constexpr double kWarmupLinear = 1;

struct ScheduleForm {
  std::string name;
  std::vector<ScheduleParam> params;
};

// Every schedule there is, in the order of the page above.
const std::vector<ScheduleForm>& ScheduleForms();
// Null: there is none of that name.
const ScheduleForm* FindScheduleForm(const std::string& name);
// Likewise.
const ScheduleParam* FindScheduleParam(const ScheduleForm& form, const std::string& key);

// What a step trains with.
struct ScheduledRates {
  double lr = 0;
  // Only OneCycle moves these: then they stand in place of the optimizer's own betas.
  bool sets_betas = false;
  double beta1 = 0;
  double beta2 = 0;
};

class LrSchedule {
 public:
  // Errors: INVALID_ARGUMENT: there is no such schedule, it has no such parameter, one that it
  // needs is missing, or a value is out of its limits (all findings in one message).
  static absl::StatusOr<LrSchedule> Create(const std::string& name,
                                           const std::map<std::string, double>& params);

  ScheduledRates At(int64_t step) const;

  const std::string& name() const { return form_->name; }
  // Every parameter of the form, whether given or its default.
  const std::map<std::string, double>& params() const { return params_; }

 private:
  LrSchedule(const ScheduleForm* form, std::map<std::string, double> params)
      : form_(form), params_(std::move(params)) {}

  double Param(const char* key) const { return params_.at(key); }
  int64_t Count(const char* key) const { return static_cast<int64_t>(params_.at(key)); }

  double WarmThenDecay(int64_t step) const;
  double WarmedUp(double it) const;
  double WarmupCosine(double it) const;
  double RangeTest(double it) const;
  ScheduledRates OneCycle(double it) const;

  const ScheduleForm* form_;
  std::map<std::string, double> params_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_SCHEDULE_LR_SCHEDULE_H_
