// The life of one process in one slot, as its agent sees it. Pure data and a printable name; the
// transitions are made by NodeCore alone.
//
//                 spawn            spawned            hello
//     +--> kEmpty -----> kStarting -------> kUp --------------> kConnected
//     |       ^              |               |  <-------------  |   |
//     |       | spawn failed |               |  session closed  |   | Finished of the
//     |       +--------------+               |                  |   | present generation
//     |                                      |  kill, ladder,   |   v
//     |                       ended          |  stop            | kFinished
//     +------------------------------------- + <--------------- +   |
//     |                                      v                      | kill, ladder
//     +------------- ended ------------- kStopping <----------------+
//     |                                  (also from kStarting: the process may exist already)
//     +------------- ended (from kUp, kConnected, kFinished: by itself or by somebody's signal)
//
// A program has no session: kUp is its normal state. A dsworker in kUp is expected to say hello.

#ifndef DSRUN_AGENT_WORKER_STATE_H_
#define DSRUN_AGENT_WORKER_STATE_H_

#include <cstdint>
#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "common/base/ids.h"

namespace dsrun::agent {

enum class WorkerState { kEmpty, kStarting, kUp, kConnected, kFinished, kStopping };

const char* WorkerStateName(WorkerState state);
std::ostream& operator<<(std::ostream& out, WorkerState state);

// What the core remembers about a slot. `= {}` when it becomes empty.
struct WorkerSlot {
  WorkerState state = WorkerState::kEmpty;
  // The last generation this process was a member of. Its exit is reported under this number, so
  // that the death of a process that the present generation does not count on disturbs nobody.
  Generation generation;
  Rank rank;
  int32_t pid = 0;
  Incarnation incarnation;  // of its session; 0: no session
  // Steady time of the last sign of life (spawn, hello, any message).
  absl::Duration heard_at;
  // When to KILL it if it is still there; infinite: not asked to leave.
  absl::Duration kill_at = absl::InfiniteDuration();
  std::string kill_at_reason;
  bool killed = false;      // KILL or the ladder was ordered by us
  std::string kill_reason;  // why
  // How long nothing, or of no progress, had been heard when it was killed for that; else 0.
  absl::Duration silent_for;
  bool stuck = false;  // ... of no progress: it beat all the time, and waited for no disk
  // From its last beat.
  int64_t step = 0;
  std::string phase;
  uint64_t moves = 0;
  absl::Duration patience = absl::InfiniteDuration();  // infinite: no progress is due
  // Steady time of its last move, or of the last beat that declared a long operation.
  absl::Duration moved_at;

  bool alive() const { return state != WorkerState::kEmpty; }
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_WORKER_STATE_H_
