// AgentNode: who may run what on this node. Admits one job at a time and owns its Supervisor; the
// services are adapters around it.
//
// Thread-safe.

#ifndef DSRUN_AGENT_AGENT_NODE_H_
#define DSRUN_AGENT_AGENT_NODE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/inventory.h"
#include "agent/peers.h"
#include "agent/supervisor.h"
#include "agent/worker_door.h"
#include "common/base/clock.h"
#include "common/base/dying_process.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/base/process_runner.h"
#include "common/base/process_tree.h"
#include "proto/agent.pb.h"

namespace dsrun::agent {

class AgentNode {
 public:
  struct Options {
    std::shared_ptr<ProcessRunner> runner;  // Supervisor::Options::runner
    Clock* clock = nullptr;                 // must outlive the node
    Incarnation incarnation;
    proto::Opened inventory;
    // Opens the socket where this job's ranks find the agent. None: they cannot (tests).
    std::function<absl::StatusOr<std::unique_ptr<WorkerDoor>>(WorkerDoor::Options)>
        open_worker_door;
    std::string worker_binary;  // dsworker, absolute
    std::string run_dir;        // instead of the jobs': run_dir/JOB_ID; empty: the job's
    absl::Duration tick_period = absl::Milliseconds(100);
    std::function<std::string(const std::string& tag)> sweep;  // Supervisor::Options::sweep
    absl::Duration door_waits = Supervisor::kDoorWaits;        // the same
    std::function<DyingLook(int32_t pid)> look_at_dying = LookAtDying;  // the same
    std::function<bool(int32_t pid)> may_be_child = MayBeOurChild;      // the same
    std::function<proto::NodeMemory(const std::string&, const std::vector<int32_t>&)> memory =
        ReadNodeMemory;  // the same
    // A job is over; `abandoned` if not by its coordinator. Called without a lock; must not block.
    std::function<void(const JobOver&)> on_job_over;
  };

  explicit AgentNode(Options options);
  // Ends a job that is running.
  ~AgentNode();

  // The first message of a coordinator that has proven itself at the door. OK: the job runs,
  // `coordinator` gets `opened`. Errors: INVALID_ARGUMENT: not an Open that makes sense, or another
  // protocol version. RESOURCE_EXHAUSTED: another job is running here.
  // FAILED_PRECONDITION: a GPU that the job names is not here, cannot run as the wanted user, who
  // may not save, no dsworker, the run or socket folder cannot be made, the save folder is not the
  // launcher's. UNAVAILABLE: this agent is ending.
  absl::StatusOr<std::shared_ptr<Supervisor>> Admit(const proto::CoordinatorMessage& first,
                                                    std::shared_ptr<CoordinatorPeer> coordinator);

  // The job that runs here, for its workers. Errors: UNAUTHENTICATED: there is none.
  absl::StatusOr<std::shared_ptr<Supervisor>> Running();

  void OnKeeperGone();
  // A signal asks for an end. True: a job is running, and was told. False: there is none.
  bool OnAskedToStop(int signal);
  // True: no job is running, and none will be admitted from now on.
  bool CloseIfIdle();

  // True: no job was ever admitted, and none will be from now on.
  bool CloseIfUnused();

  // How long the keeper of this process shall bear its silence: the running job's limit, or the
  // default.
  absl::Duration stalled_after();
  // False while the core of a running job has not come round for that long: this process is as good
  // as dead, and its keeper should know.
  bool Healthy();

 private:
  absl::StatusOr<std::shared_ptr<Supervisor>> Start(const proto::CoordinatorMessage& first,
                                                    std::shared_ptr<CoordinatorPeer> coordinator);
  void OnOver(const JobOver& over);
  absl::StatusOr<Supervisor::Options> CheckNode(const proto::Open& open) const;
  absl::Status OpenDoor(const proto::Open& open, Supervisor::Options& options);

  const Options options_;

  Mutex mu_;
  std::shared_ptr<Supervisor> supervisor_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<WorkerDoor> door_ ABSL_GUARDED_BY(mu_);  // of the running job
  int jobs_ ABSL_GUARDED_BY(mu_) = 0;                      // that had one
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  bool used_ ABSL_GUARDED_BY(mu_) = false;    // some job was admitted once
  bool closed_ ABSL_GUARDED_BY(mu_) = false;  // CloseIfUnused or CloseIfIdle said so
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_AGENT_NODE_H_
