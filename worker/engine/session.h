// Session: a worker's line to its own agent, for the life of the process, through all generations.
// The conversation is described in proto/worker.proto.
//
// Threads: all methods are thread-safe. The handlers given to Connect run on the session's own
// thread and must not block.

#ifndef DSRUN_WORKER_ENGINE_SESSION_H_
#define DSRUN_WORKER_ENGINE_SESSION_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "proto/worker.pb.h"

namespace dsrun::worker {

class Session {
 public:
  virtual ~Session() = default;

  virtual const proto::JobSpec& job() const = 0;

  // Blocks until a plan newer than `after` has been announced, and returns the newest one.
  // Errors: CANCELLED: the session is over.
  virtual absl::StatusOr<proto::GenerationPlan> WaitForPlan(Generation after) = 0;

  // A plan newer than `generation` has been announced: whatever is done for it is in vain.
  virtual bool Superseded(Generation generation) const = 0;

  // `interrupt` is called once, from the session's thread, when a plan newer than `generation` is
  // announced; at once, from this thread, if that has happened already. Replaces the previous one;
  // an empty function clears it. ENSURES: when this returns, the previous handler is not running.
  virtual void OnSuperseded(Generation generation, std::function<void()> interrupt) = 0;

  // The operator wants the job to end, by the coordinator or by a signal to this process: finish
  // the step, save, finish.
  virtual bool StopRequested() const = 0;

  // All-gather of one value a rank through the coordinator. `rank` is the world's; `group` is empty
  // for all ranks, or the name of one that it is in (common/topology/process_group.h). Blocks until
  // all ranks of the group have put theirs. Errors: ABORTED: superseded meanwhile; CANCELLED: the
  // session is over.
  virtual absl::StatusOr<std::vector<std::string>> Exchange(Generation generation, Rank rank,
                                                            const std::string& group,
                                                            const std::string& name,
                                                            const std::string& value) = 0;

  // The table of that name that the coordinator gives to all ranks of `generation` by itself.
  // Errors: as Exchange; DEADLINE_EXCEEDED: none came within `timeout`.
  virtual absl::StatusOr<std::vector<std::string>> AwaitTable(Generation generation,
                                                              const std::string& name,
                                                              absl::Duration timeout) = 0;

  // `handler` gets every CommitSave and DropSave, those included that came before this call, on the
  // session's thread. Replaces the previous one; an empty function clears it. ENSURES: when this
  // returns, the previous handler is not running.
  virtual void OnSaveMessage(std::function<void(const proto::HostMessage&)> handler) = 0;

  // Sends a message that belongs to `generation`; the session fills in the sender. A session that
  // is over drops it. ShardWritten and CommitDone belong to their save's generation and are heard
  // whatever has begun since; all others only as long as theirs is in force.
  virtual void Send(Generation generation, proto::WorkerMessage message) = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_SESSION_H_
