// Everything that the coordinator core knows between two events, as one plain value: what Snapshot
// keeps (coordinator_snapshot.cc), and in its first part what Digest covers (coordinator_state.cc).
// Who changes what, and what holds, stands in coordinator.h.

#ifndef DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_STATE_H_
#define DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_STATE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "launcher/coordinator/history.h"
#include "launcher/coordinator/membership.h"
#include "launcher/coordinator/rendezvous_table.h"
#include "launcher/coordinator/save_ledger.h"
#include "launcher/coordinator/suspects.h"
#include "proto/agent.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

struct CoordinatorState {
  // As nothing has happened yet in a job of `nodes` nodes.
  explicit CoordinatorState(size_t nodes) : members(nodes) {}

  enum class Phase {
    kIdle,
    kOpening,
    kPreparing,
    kStarting,
    kRunning,
    kDraining,
    kStopping,
    kEnding,
    kEnded,
  };

  struct Deadline {
    absl::Duration at = absl::InfiniteDuration();
    uint64_t number = 0;  // grows with every setting
    bool is_set() const { return at != absl::InfiniteDuration(); }
  };

  // Durable: what Digest covers.
  Phase phase = Phase::kIdle;
  Generation generation;       // the highest claimed
  proto::GenerationPlan plan;  // of the last Begin; its number is the generation begun
  Membership members;
  std::set<NodeId> prepared;
  int master_port = 0;    // programs: what node 0 has reserved for the last generation it prepared
  std::set<Rank> joined;  // programs: started
  std::set<Rank> finished;     // Finished, or a program's exit with 0
  std::set<Rank> exited;       // their process has ended
  std::set<Rank> survivors;    // their process had joined an older generation, and lived at Begin
  bool stopped_early = false;  // some rank of the generation finished because of a stop
  RendezvousTable rendezvous;
  SaveLedger saves;
  Suspects suspects;  // reported, the cause is not known yet
  Deadline phase_deadline;
  Deadline cause_deadline;
  int restarts = 0;                          // of the whole job
  std::vector<absl::Duration> restarted_at;  // those that count: max_restarts at most, oldest first
  int failed_without_progress = 0;  // generations that failed by themselves since the last progress
  int ended_from_outside = 0;       // generations ended from outside since one last finished a step
  bool progressed = false;          // the generation begun did
  bool first_step = false;          // the generation begun finished a step
  int64_t high_step = 0;            // highest finished step of all generations
  std::pair<int64_t, int64_t> newest_checkpoint;  // generation, step
  std::string newest_manifest;                    // its file name
  bool drain_for_lease = false;  // kDraining: a lost node's processes may live until the deadline
  int stops = 0;                 // OperatorStops
  bool stop_waits = false;       // the first came during a recovery: stop when that is through
  std::map<Rank, std::string> stopped;  // programs: how ranks ended after the operator's stop
  int exit_code = 0;                    // kEnding: what the job will return
  bool end_waits = false;               // kEnding: for a save that is not committed yet
  bool ended = false;                   // EndJob was emitted
  std::map<NodeId, proto::NodeMemory> memory;  // the newest that each node has reported
  int memory_looks = 0;             // kPreparing: how often the claim did not fit, so far
  std::set<NodeId> memory_unknown;  // the operator knows that they report none

  // Not durable: the story, and what came with progress.
  History history;
  int64_t heard_step = 0;                           // highest StepDone of the generation begun
  int64_t told_step = 0;                            // highest step told to the operator in it
  bool stacks_asked = false;                        // in the generation begun
  bool memory_told = false;                         // what takes it, in the generation begun
  std::map<Rank, std::vector<std::string>> stacks;  // what its ranks answered
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_COORDINATOR_STATE_H_
