// What happened, as data: filled by the coordinator core, turned into text elsewhere. Pure values.
//
// Times named *_at are steady time of the coordinator (see clock.h); absent: never happened.

#ifndef DSRUN_LAUNCHER_COORDINATOR_REPORT_H_
#define DSRUN_LAUNCHER_COORDINATOR_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"

namespace dsrun::launcher {

// One thing that went wrong.
struct Failure {
  enum class Kind {
    kWorkerExited,     // a rank's process ended: by itself, by a signal, or killed by its agent
    kWorkerReported,   // a rank said that its generation is over (Failed); fatal: see `fatal`
    kWorkerNotJoined,  // a rank did not join its generation in time
    kWorkerMissed,     // ranks waited for it in a collective until their deadline
    kNodeLost,         // its agent is gone or silent
    kNodeNotOpened,    // its agent could not be reached, started, or refused the job
  };
  Kind kind = Kind::kWorkerExited;
  NodeId node;
  std::string host;
  std::optional<Slot> slot;  // absent for nodes
  std::optional<Rank> rank;  // absent when the slot had none
  Generation generation;     // in which it was noticed
  std::string what;          // decoded: "killed by signal 9 (SIGKILL)", "exited with code 3"
  int exit_code = 0;         // what dsrun would return for it: code, 128 + signal, or 1
  int pid = 0;
  bool fatal = false;            // a rank's report: nothing helps, the job ends
  bool replace_process = false;  // a rank's report: only a new process helps
  int peer_rank = -1;            // whom a rank's report is about
  bool timed_out = false;        // a rank's report: it has waited for that peer until its deadline
  bool killed_by_agent = false;  // a consequence by itself, unless the agent gave a reason
  // Not what the ranks' own program did: killed by a signal that somebody sent, stopped, or on a
  // node that is gone; of a report: only that a peer is.
  bool from_outside = false;
  absl::Duration noticed_at;  // when the coordinator heard of it
  absl::Duration silent_for;  // how long its silence had lasted by then; 0: it was not silence
  std::optional<absl::Duration>
      wall_time;  // when it happened, since the epoch, on the agent's clock
  // The same on the node's steady clock, and on ours (node_clocks.h) to within the second; absent:
  // not an exit, or the node's clock is not known.
  std::optional<absl::Duration> node_time;
  std::optional<absl::Duration> happened_at;
  absl::Duration happened_within;
  std::vector<std::string> last_lines;  // of the rank's log
  int lines_left_out = 0;               // of those and of `stack`, because an incident is bounded
  // What the rank was doing when it was asked: its threads' functions, innermost first, or the
  // kernel's word for a process that is stopped. Empty: it was not asked, or did not answer.
  std::vector<std::string> stack;
};

// Why a generation ended before its time, and what came of it.
struct Incident {
  Failure cause;                      // the first failure, job-wide
  std::vector<Failure> consequences;  // the others, in the order they were heard
  int64_t more = 0;                   // others that are only counted, because there are so many
  Generation failed;                  // the generation it ended
  std::optional<Generation> went_on;  // the one that made the next step; absent: none
  absl::Duration detected_at;
  absl::Duration failed_at;  // detected_at, or earlier by the silence that it took to notice
  std::optional<absl::Duration> began_at;      // the next generation's plan was sent
  std::optional<absl::Duration> joined_at;     // all its ranks had joined
  std::optional<absl::Duration> next_step_at;  // it finished its first step
  int64_t last_step_before = 0;                // finished steps before the failure
  int64_t resumed_from_step = 0;
  int64_t lost_steps() const {
    return last_step_before > resumed_from_step ? last_step_before - resumed_from_step : 0;
  }
};

struct GenerationRecord {
  Generation generation;
  std::string reason;           // "first start", or the cause of the incident
  std::vector<WorkerId> ranks;  // index = rank
  absl::Duration claimed_at;
  std::optional<absl::Duration> began_at;
  std::optional<absl::Duration> joined_at;
  std::optional<absl::Duration> first_step_at;
  std::optional<absl::Duration> ended_at;
  int64_t start_step = 0;
  std::string loaded_from;  // manifest; empty: fresh initialisation
  int64_t last_step = 0;    // highest finished step heard of
};

struct Report {
  int exit_code = 0;
  std::string verdict;                   // one sentence: why the job ended as it did
  std::vector<Failure> launch_failures;  // agents that could not be opened
  std::vector<Incident> incidents;       // in order; the last may be what ended the job
  std::vector<GenerationRecord> generations;
  int restarts = 0;
  int64_t lost_steps = 0;    // computed again, over all incidents
  absl::Duration lost_time;  // from failed_at to next step, over all incidents
  absl::Duration started_at;
  absl::Duration ended_at;
  // Of rank 0's Finished; the checkpoint fields also from CommitDone.
  int64_t final_step = 0;
  double final_loss = 0;
  std::string manifest;  // newest committed checkpoint; empty: none
  int64_t checkpoint_step = 0;
  std::string sample;
  bool stopped_early = false;
  // A generation that did not fit ended the job: a line for every machine that lacks memory, and
  // what would fit; else empty.
  std::vector<std::string> lacking_memory;
  std::string would_fit;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_REPORT_H_
