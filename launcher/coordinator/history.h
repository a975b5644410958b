// The job's story as it grows: generations, incidents, final numbers. Pure bookkeeping; decides
// nothing, so it is no part of the durable state.
//
// An incident collects what fails from the first failure until the next generation begins; a
// failure after that is the next incident. All incidents that wait are closed by the next finished
// step; the time lost by several of them is counted once.

#ifndef DSRUN_LAUNCHER_COORDINATOR_HISTORY_H_
#define DSRUN_LAUNCHER_COORDINATOR_HISTORY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "launcher/coordinator/report.h"

namespace dsrun::launcher {

class History {
 public:
  Report& report() { return report_; }
  const Report& report() const { return report_; }

  // The whole story is its report; see report_codec.h.
  static History Of(Report report) {
    History history;
    history.report_ = std::move(report);
    return history;
  }

  void Claimed(Generation generation, std::string reason, absl::Duration now);
  void Began(std::vector<WorkerId> ranks, absl::Duration now);
  void Joined(int64_t start_step, const std::string& loaded_from);
  void AllJoined(absl::Duration now);
  void StepFinished(int64_t step);
  // The generation's first step: what the waiting incidents cost, if there are any.
  struct Recovery {
    absl::Duration since_failure;
    int64_t lost_steps = 0;
  };
  std::optional<Recovery> FirstStep(absl::Duration now);

  // `failed`: the generation it ends.
  void AddFailure(Failure failure, Generation failed);
  // A failure of the newest incident that was heard of after the next generation had begun. It is
  // the cause only if it may have been before that. REQUIRES: HasIncident.
  void AddLate(Failure failure);
  // That generation is over before it was one: the newest incident collects again.
  void Reopen() { report_.incidents.back().began_at.reset(); }
  // The cause of the newest incident. REQUIRES: there is one.
  const Failure& Cause() const { return report_.incidents.back().cause; }
  bool HasIncident() const { return !report_.incidents.empty(); }
  // Whether a failure now belongs to the newest incident.
  bool Collecting() const { return HasIncident() && !report_.incidents.back().began_at; }

 private:
  GenerationRecord* Current();

  Report report_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_HISTORY_H_
