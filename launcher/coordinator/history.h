// The job's story as it grows: generations, incidents, final numbers. Pure bookkeeping; decides
// nothing, so it is no part of the durable state.
//
// An incident collects what fails from the first failure until the next generation begins; a
// failure after that is the next incident. All incidents that wait are closed by the next finished
// step; the time lost by several of them is counted once.
//
// Every rank of a large job fails with it, and each has last lines, so what is kept is bounded: of
// the newest incident the last lines of the cause and of the first that fit beside it, and all
// failures, because each may turn out to be the cause; of an older one, a few; of an old one, its
// cause. What is left out is counted (Incident::more, Failure::lines_left_out).

#ifndef DSRUN_LAUNCHER_COORDINATOR_HISTORY_H_
#define DSRUN_LAUNCHER_COORDINATOR_HISTORY_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "launcher/coordinator/cause_chooser.h"
#include "launcher/coordinator/report.h"

namespace dsrun::launcher {

class History {
 public:
  // Of its newest incident, only the cause is in its place: see WholeReport and ToldReport.
  Report& report() { return report_; }
  const Report& report() const { return report_; }

  // All that there is, from which Of makes the same History again.
  Report WholeReport() const;
  static History Of(Report report);
  // For people: of a large incident, the first kMostConsequences.
  Report ToldReport() const;

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
  // Failures that the newest incident has.
  size_t CollectedFailures() const { return chooser_.size(); }

  // Ranks times two: each can report and end. More come of no real job; they are counted.
  static constexpr size_t kMostFailures = 200'000;
  static constexpr size_t kMostConsequences = 256;
  // As much as 20 lines of 16 KiB, which agents send at most.
  static constexpr size_t kMostLineBytesOfACause = 320 << 10;
  static constexpr size_t kMostLineBytesOfOthers = 1 << 20;

 private:
  GenerationRecord* Current();
  void OpenIncident(Failure failure, Generation failed);
  // Puts it to the newest incident's others, with its lines if there is room.
  void Keep(Failure failure);
  // Into the order in which they were heard.
  void SortNewest(std::vector<Failure>& consequences) const;
  // Nothing comes to the newest incident any more: another one is about to begin.
  void CloseNewest();

  Report report_;

  // Of the newest incident; follows from the report. Its consequences stand in the order in which
  // they came to be some, because to keep a large one sorted costs too much.
  CauseChooser chooser_;
  size_t cause_ = 0;  // its number
  std::vector<size_t>
      place_;              // by number: where among the consequences it is; the cause is nowhere
  size_t line_bytes_ = 0;  // of the consequences
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_HISTORY_H_
