#include "worker/api/config.h"

#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/numerics/dropout.h"
#include "common/plan/optimizer_settings.h"
#include "common/schedule/lr_schedule.h"

namespace dsrun {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;

absl::Status Wrong(std::string_view flag, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("--", std::string(flag), ": ", what));
}

absl::Status Whole(std::string_view flag, int64_t value, int64_t least, int64_t most = kMost) {
  if (value >= least && value <= most) return absl::OkStatus();
  return Wrong(flag, absl::StrCat("expected a number from ", least, " to ", most, ", got ", value));
}

absl::Status Real(std::string_view flag, double value, double least) {
  if (std::isfinite(value) && value >= least) return absl::OkStatus();
  return Wrong(flag, absl::StrCat("expected a number from ", least, " on, got ", value));
}

absl::Status Rate(std::string_view flag, double value) {
  if (IsDropoutRate(value)) return absl::OkStatus();
  return Wrong(flag, absl::StrCat(kDropoutRateWords, ", got ", value));
}

absl::Status OneOf(std::string_view flag, const std::string& value,
                   const std::vector<std::string>& values) {
  std::string all;
  for (const std::string& one : values) {
    if (one == value) return absl::OkStatus();
    all += (all.empty() ? "" : ", ") + one;
  }
  return Wrong(flag, absl::StrCat("expected ", all, ", got \"", value, "\""));
}

absl::Status Longer(std::string_view flag, absl::Duration value) {
  if (value > absl::ZeroDuration()) return absl::OkStatus();
  return Wrong(flag, absl::StrCat("expected more than no time, got ", absl::FormatDuration(value)));
}

absl::Status CheckBatch(const Config& c) {
  RETURN_IF_ERROR(Whole("global-batch-size", c.global_batch_size, 1));
  RETURN_IF_ERROR(Whole("micro-batch-size", c.micro_batch_size, 1));
  RETURN_IF_ERROR(Whole("micro-batches-per-atom", c.micro_batches_per_atom, 1));
  RETURN_IF_ERROR(Whole("train-iters", c.train_iters, 1));
  if (c.global_batch_size % c.micro_batch_size == 0) return absl::OkStatus();
  return Wrong("global-batch-size",
               absl::StrCat("expected a multiple of --micro-batch-size ", c.micro_batch_size,
                            ", got ", c.global_batch_size));
}

// What the schedule would leave out quietly.
absl::Status CheckSchedule(const Config& c) {
  const ScheduleForm* const form = FindScheduleForm(c.lr_schedule);
  if (form == nullptr) return absl::OkStatus();  // LrSchedule::Create says so
  if (c.min_lr != 0 && FindScheduleParam(*form, "min_lr") == nullptr) {
    return Wrong("min-lr", "--lr-schedule " + c.lr_schedule + " has none; leave it out");
  }
  if (c.lr_warmup_iters >= 0 && FindScheduleParam(*form, "warmup") == nullptr) {
    return Wrong("lr-warmup-iters", "--lr-schedule " + c.lr_schedule + " has none; leave it out");
  }
  return absl::OkStatus();
}

absl::Status CheckRates(const Config& c) {
  RETURN_IF_ERROR(Real("lr", c.lr, 0));
  RETURN_IF_ERROR(Real("min-lr", c.min_lr, 0));
  RETURN_IF_ERROR(Whole("lr-warmup-iters", c.lr_warmup_iters, -1));
  RETURN_IF_ERROR(CheckSchedule(c));
  RETURN_IF_ERROR(Real("weight-decay", c.weight_decay, -1));
  RETURN_IF_ERROR(Real("clip-grad", c.clip_grad, 0));
  RETURN_IF_ERROR(Rate("hidden-dropout", c.hidden_dropout));
  RETURN_IF_ERROR(Rate("attention-dropout", c.attention_dropout));
  const double decay = c.weight_decay < 0 ? 0 : c.weight_decay;
  RETURN_IF_ERROR(CreateOptimizer(c.optimizer, c.optimizer_params, decay).status())
      << "--optimizer";
  return absl::OkStatus();
}

absl::Status CheckEngine(const Config& c) {
  RETURN_IF_ERROR(Whole("threads-per-rank", c.threads_per_rank, 0, 4096));
  if (c.bucket_bytes != 0) {
    RETURN_IF_ERROR(Whole("bucket-bytes", c.bucket_bytes, 4096));
  }
  RETURN_IF_ERROR(Whole("zero3-prefetch", c.zero3_prefetch, -1));
  RETURN_IF_ERROR(Whole("zero3-persistence-threshold", c.zero3_persistence_threshold, -1));
  RETURN_IF_ERROR(OneOf("sums", c.sums, {"exact", "fast"}));
  RETURN_IF_ERROR(OneOf("check-collectives", c.check_collectives, {"start", "always", "off"}));
  if (!c.isa_cap.empty()) {
    RETURN_IF_ERROR(OneOf("isa-cap", c.isa_cap, {"avx512", "avx2", "baseline"}));
  }
  if (c.zero_stage < 0 || c.zero_stage > 3) {
    return Wrong("zero-stage", absl::StrCat("expected 0, 1, 2 or 3, got ", c.zero_stage));
  }
  if (c.optimizer == "muon") {
    return Wrong("optimizer",
                 "expected another than muon, which has to be told the hidden matrices of "
                 "a model: layers of one's own do not say which those are yet");
  }
  if (c.precision == "fp32") return absl::OkStatus();
  return Wrong("precision", absl::StrCat("expected fp32, got \"", c.precision,
                                         "\": layers of one's own compute in fp32 so far"));
}

}  // namespace

absl::Status Config::Check() const {
  RETURN_IF_ERROR(CheckBatch(*this));
  RETURN_IF_ERROR(CheckRates(*this));
  RETURN_IF_ERROR(CheckEngine(*this));
  RETURN_IF_ERROR(Whole("keep-last", keep_last, 1));
  RETURN_IF_ERROR(Whole("keep-every", keep_every, 0));
  RETURN_IF_ERROR(Longer("join-timeout", join_timeout));
  RETURN_IF_ERROR(Longer("collective-timeout", collective_timeout));
  return Longer("save-timeout", save_timeout);
}

}  // namespace dsrun
