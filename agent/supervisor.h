// Supervisor: the shell around NodeCore for one job. It queues events, steps the core on one thread
// and performs the actions: processes, sessions, logs, the coordinator's stream.
//
//   Supervisor::Create(options, open message, coordinator) -> ... -> options.on_over
//
// At every tick it looks which of its processes are dead and do not end (dying_process.h), and
// waits for these no longer: the runner reaps them whenever they end, be it after this job.
//
// A process is started on a thread of its own: its executable, or its log, may be on a file server
// that does not answer, and then no end of another rank, no heartbeat and no lease waits for it. A
// start that does not come back is given up after kStartLimit, or kUnwantedStartLimit when it is
// not wanted any more, and reported as one that the node lacked something for; whenever it comes
// back, be it after the job, its process is killed before anything is told of it.
//
// Who waits for a start: the workers' door, for kDoorWaits at most, because a process that calls
// there runs already, and its pid is about to be told. That holds for a child of the agent alone;
// whoever else calls is refused at once, and holds up nobody at the door, however often it calls. A
// Hello does not wait: its caller has passed that door. No lock is held while a process is started.
//
// Before everything that the core hears it is told how long the machine was suspended (Slept).
//
// Lives from an admitted Open until its owner drops it, after on_over. Destruction before that ends
// the job: everything is killed, and the ends are awaited.
//
// Nothing that the core's thread does can block for long: sends queue up, files are other threads'
// business, a sweep and the last look at the logs are bounded. No lock is held while an action is
// performed. Thread-safe.

#ifndef DSRUN_AGENT_SUPERVISOR_H_
#define DSRUN_AGENT_SUPERVISOR_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/inventory.h"
#include "agent/killed_for_memory.h"
#include "agent/log_pump.h"
#include "agent/node_core.h"
#include "agent/peers.h"
#include "agent/port_lease.h"
#include "agent/side_thread.h"
#include "common/base/clock.h"
#include "common/base/dying_process.h"
#include "common/base/ids.h"
#include "common/base/machine_memory.h"
#include "common/base/mutex.h"
#include "common/base/process_runner.h"
#include "common/base/process_tree.h"
#include "proto/agent.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::agent {

class Supervisor {
 public:
  static constexpr absl::Duration kStartLimit = absl::Seconds(60);
  static constexpr absl::Duration kUnwantedStartLimit = absl::Seconds(2);
  static constexpr absl::Duration kDoorWaits = absl::Milliseconds(500);

  using Sweep = std::function<std::string(const std::string& tag)>;

  struct Options {
    // Shared: a start may come back when the supervisor is gone, and whoever made the runner, too.
    std::shared_ptr<ProcessRunner> runner;
    Clock* clock = nullptr;  // must outlive the supervisor
    Incarnation incarnation;
    proto::Opened inventory;
    std::string agent_socket;   // unix socket where workers find their host
    std::string worker_binary;  // dsworker, absolute
    std::string run_dir;        // where logs/ goes
    ProcessUser user;           // the ranks run as
    // Time from tick to tick. Infinite: only Tick() ticks (tests with a fake clock).
    absl::Duration tick_period = absl::Milliseconds(100);
    // Kills what outlived the worker with this tag; with an empty tag, everything below this
    // process. What is still there, for people; empty: nothing. Whoever is dead already and only
    // does not end (dying_process.h) does not count. Called on the core's thread, and on that of
    // the starts, be it when the supervisor is gone; must be bounded.
    Sweep sweep;
    absl::Duration door_waits = kDoorWaits;
    // What the kernel says of a worker's process.
    std::function<KernelState(int32_t pid)> inspect = KernelStateOf;
    std::function<DyingLook(int32_t pid)> look_at_dying = LookAtDying;
    std::function<bool(int32_t pid)> may_be_child = MayBeOurChild;
    // What the job's ranks can have here, said with Opened and with every Prepared.
    std::function<proto::NodeMemory(const std::string& job_id, const std::vector<int32_t>& pids)>
        memory = ReadNodeMemory;
    std::function<OomKills()> oom_kills = [] { return MemoryReader().ReadOomKills(); };
    // The job is over on this node and everything is gone. Called once, on the core's thread, which
    // then only ends the coordinator's stream.
    std::function<void(const JobOver&)> on_over;
  };

  // Starts with the `open` message, which is admitted already.
  // Errors: RESOURCE_EXHAUSTED: no thread or descriptor.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Create(
      Options options, const proto::CoordinatorMessage& open,
      std::shared_ptr<CoordinatorPeer> coordinator);
  ~Supervisor();

  void OnCoordinatorMessage(const proto::CoordinatorMessage& message);
  void OnCoordinatorGone(const std::string& why);

  // Whether process `pid` of user `uid` is the present process of one of this job's slots. For a
  // child of this process waits for the pids of starts that are under way, door_waits at most.
  // Errors: PERMISSION_DENIED: no; in words that go on from "it".
  absl::Status CheckWorker(int32_t pid, uint32_t uid) const;
  // A worker has opened a session with `hello`; by the kernel's word its process is `pid` (what it
  // says of itself counts for nothing). OK: it is registered, `peer` will get the welcome.
  // Errors: UNAUTHENTICATED: not the job's token. INVALID_ARGUMENT: protocol version. ABORTED: not
  // the present process of that slot.
  absl::Status OnWorkerHello(const proto::WorkerMessage& hello, int32_t pid,
                             std::shared_ptr<WorkerPeer> peer);
  void OnWorkerMessage(Slot slot, const proto::WorkerMessage& message);
  void OnWorkerGone(Slot slot, Incarnation incarnation);

  void OnKeeperGone();
  void OnAskedToStop(int signal);
  void Tick();

  // Steady time at which the core's thread last came round; the agent's beat depends on it.
  absl::Duration last_round() const;
  // Limits.agent_stalled_after of the job.
  absl::Duration stalled_after() const;

 private:
  struct Ended {
    int32_t pid = 0;
    ProcessEnd end;
    absl::Time wall_time;
    absl::Duration steady_time;
  };
  // How the end of one process is told: by whoever comes first, the runner or a look. Guarded by
  // mu_.
  struct Fate {
    bool killed = false;         // by order of the core
    bool known = false;          // WorkerSpawned is on its way: its end may follow
    bool forgotten = false;      // ... will never be: nothing is told of it
    std::optional<Ended> early;  // the end that came before that
    bool ended = false;          // the runner said so
    bool given_up = false;       // before that; seen dying since `dying_since`
    bool told = false;           // WorkerCannotEnd is queued
    absl::Duration dying_since;
  };
  // One process of a slot; of the core's thread.
  struct Process {
    int32_t pid = 0;
    int64_t log_id = 0;
    std::string tag;
    std::shared_ptr<Fate> fate;
    DyingFor dying;
  };
  // A process that is being started. Of the core's thread, but for `unwanted`, which is also read
  // by the thread that starts it, and given_up, guarded by mu_.
  struct Start {
    Slot slot;
    std::string what;  // the executable
    Process process;   // without its pid
    absl::Duration began;
    std::atomic<bool> unwanted{false};
    absl::Duration unwanted_since = absl::InfiniteDuration();
    absl::Duration grace = absl::InfiniteDuration();  // what it gets if it is there all the same
    bool given_up = false;
  };
  struct Started {
    std::shared_ptr<Start> start;
    absl::StatusOr<int32_t> pid;
  };
  struct StartTask;
  // What was left behind; of the core's thread.
  struct Leftover {
    int32_t pid = 0;
    std::shared_ptr<Fate> fate;
  };
  // What the runner's callbacks reach this object through: those of what was left behind may come
  // when it is gone.
  struct Ends {
    Mutex mu;
    Supervisor* supervisor ABSL_GUARDED_BY(mu) = nullptr;  // null: gone
  };
  struct Session {
    Incarnation incarnation;
    std::shared_ptr<WorkerPeer> peer;
  };

  Supervisor(Options options, const proto::CoordinatorMessage& open,
             std::shared_ptr<CoordinatorPeer> coordinator);
  void Enqueue(NodeEvent event);
  void Loop();
  void ForgetPid(Slot slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StepAll(NodeEvent event);
  void NoteSleep();
  void OnEnd(Slot slot, int64_t log_id, const std::shared_ptr<Fate>& fate, int32_t pid,
             const ProcessEnd& end);
  void TellEnd(Slot slot, int64_t log_id, const std::shared_ptr<Fate>& fate, const Ended& ended);
  void LookForDying();
  void GiveUp(Slot slot, const Process& process, const DyingLook& look);

  void Do(const SpawnWorker& action);
  void Do(const ReservePort& action);
  void Do(const InspectWorker& action);
  void Do(const KillWorker& action);
  void Do(const StopLadder& action);
  void Do(const SignalWorkers& action);
  void Do(const SendToCoordinator& action);
  void Do(const SendToWorker& action);
  void Do(const SweepOrphans& action);
  void Do(const ClearNode& action);
  void Do(const LeaveBehind& action);
  void Do(const JobOver& action);

  std::string WhyNoPort(const absl::Status& status) const;
  absl::StatusOr<std::shared_ptr<Start>> BeginStart(const SpawnWorker& action);
  static void RunStart(StartTask& task);
  // False: too late, nobody will take it.
  bool OnStarted(const std::shared_ptr<Start>& start, const absl::StatusOr<int32_t>& pid);
  void FinishStart(const Started& started);
  // Sweeps, so: no lock.
  static void KillStarted(const Start& start, const absl::StatusOr<int32_t>& pid,
                          ProcessRunner& runner, const Sweep& sweep);
  void KillLateStarts();
  // True: the slot's process is only being started, and will be ended when it is there.
  bool StopStart(Slot slot, absl::Duration grace);
  void LookAtStarts();
  absl::StatusOr<int> MakeBootstrap(Slot slot) const;
  void TellOperator(Slot slot, const std::string& text);
  void FlushLogs();
  std::string LogPath(const SpawnWorker& action) const;
  proto::NodeMemory Memory() const;
  bool ForwardLog(const LogLines& lines);

  // Constant after construction.
  const Options options_;
  const proto::JobSpec job_;
  const int node_;
  const std::string token_;
  const std::shared_ptr<CoordinatorPeer> coordinator_;

  // Of the core's thread.
  NodeCore core_;
  std::map<Slot, Process> processes_;
  std::map<Slot, std::shared_ptr<Start>> starts_;
  absl::Duration slept_;  // of the clock, as far as the core knows
  std::vector<Leftover> leftovers_;
  std::deque<NodeEvent> own_events_;  // consequences of actions; before anything queued
  int64_t next_tag_ = 1;
  PortLease port_;  // of a program's rank 0, when that is here

  const std::shared_ptr<Ends> ends_ = std::make_shared<Ends>();
  KilledForMemory killed_{options_.oom_kills};

  std::atomic<int64_t> generation_{0};
  std::atomic<int64_t> last_round_ns_{0};

  mutable Mutex mu_;
  CondVar changed_;
  mutable CondVar pids_changed_;
  std::deque<NodeEvent> queue_ ABSL_GUARDED_BY(mu_);
  std::vector<Started> started_ ABSL_GUARDED_BY(mu_);  // before what is in queue_
  bool looped_ ABSL_GUARDED_BY(mu_) = false;           // the core's thread takes nothing any more
  std::map<Slot, int32_t> pids_ ABSL_GUARDED_BY(mu_);  // 0: it is being started
  std::map<Slot, Session> sessions_ ABSL_GUARDED_BY(mu_);

  // Destroyed first: their callbacks use everything above.
  std::unique_ptr<LogPump> logs_;
  std::unique_ptr<SideThread> starter_;
  std::thread thread_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_SUPERVISOR_H_
