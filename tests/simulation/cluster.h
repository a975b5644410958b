// A whole cluster in one thread: the real Coordinator and the real NodeCores, model workers, wires
// that delay, stall and break, and faults at every delivery.
//
// Invariants: the Coordinator's own after every step; no message of the job is lost but with its
// stream; two processes never share a slot; a generation makes no step on a place where a newer one
// has; every checkpoint on the disk is the undisturbed run's and keeps all of its shards; no shard
// of a save that may be committed is removed; no attempt is granted twice; no program of a newer
// generation lives beside one of an older; a silent node is fenced in time, a worker that spins is
// killed in time; the job ends, with an exit code that the faults explain: no progress (93) only by
// what workers did themselves; a job that ended 0 has done all its steps; no plan goes to a node
// that has not acknowledged its claim; no more restarts than faults explain; one Ctrl-C after a
// step never means "at once", and what it stopped in order it has saved; the named cause of a
// failure is the one that came first; no process is left; a replay of the durable events gives the
// coordinator's digest.

#ifndef DSRUN_TESTS_SIMULATION_CLUSTER_H_
#define DSRUN_TESTS_SIMULATION_CLUSTER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/shell/node_clocks.h"
#include "proto/job.pb.h"
#include "tests/launcher/coordinator/story_writer.h"
#include "tests/simulation/sim_agent.h"
#include "tests/simulation/sim_world.h"

namespace dsrun::simulation {

struct Outcome {
  std::string violation;  // empty: everything held
  int exit_code = -1;     // -1: the coordinator was killed
  int faults = 0;
  int spins = 0;                     // of them, workers whose engine looped for ever
  int heard_in_the_wrong_order = 0;  // causes that were heard of after what they caused
  int64_t generations = 0;
  int restarts = 0;
  int lost_nodes = 0;
  bool saved_after_recovery = false;  // one Ctrl-C during a recovery, and the job saved at its end
  uint64_t steps = 0;                 // of the queue
  uint64_t transcript = 0;            // a hash of all that the coordinator did, and of its report
  int restores = 0;                   // of the coordinator, from a snapshot
  int regrants = 0;                   // commits that were granted again: the committer had died
  int late_commits = 0;               // saves that were committed after their generation had ended
};

class Cluster {
 public:
  // `restore_chance`: how often, before an event, the coordinator is replaced by one that is
  // restored from its snapshot. No other luck changes with it. Absent: never, and no transcript.
  Cluster(const Scenario& scenario, Sabotage sabotage, bool verbose,
          std::optional<double> restore_chance = std::nullopt);
  // From here on the coordinator's story is kept: call it before Run, without restores.
  void KeepStory() { story_.emplace(coordinator_->config()); }
  Outcome Run();
  const std::optional<launcher::StoryWriter>& story() const { return story_; }
  // What a journal would hold after Run, and the core that it belongs to.
  const std::vector<std::pair<absl::Duration, launcher::Event>>& durable_events() const {
    return journal_;
  }
  const launcher::Coordinator& coordinator() const { return *coordinator_; }

 private:
  // The stream of one node. Ordered both ways; a break loses what is on the way.
  struct Stream {
    bool up = false;
    bool fenced = false;
    uint64_t life = 0;
    absl::Duration down_free, up_free;  // nothing overtakes
    absl::Duration stalled_until;       // partition: nothing arrives before
    int64_t prepared = 0;               // the newest claim it has acknowledged
    bool heard = false;                 // since the last coordinator tick
    absl::Duration heard_at;            // or since when it can be blamed for its silence
  };

  void Feed(launcher::Event event);
  void MaybeRestore();
  void Transcribe(const std::string& text);
  void CheckMasterPort(const proto::GenerationPlan& plan);
  void Perform(const launcher::Action& action);
  void OpenAgent(NodeId node);
  void ToAgent(NodeId node, const proto::CoordinatorMessage& message);
  void ToCoordinator(NodeId node, const proto::AgentMessage& message);
  void DeliverUp(NodeId node, uint64_t life, const proto::AgentMessage& message);
  void Break(NodeId node, const std::string& why);
  void Fence(NodeId node);
  void TickLater();
  void HeartbeatLater();
  void KillCoordinator();
  absl::Duration Latency() { return world_.luck.Millis(0, 4); }

  void MaybeFault(const std::string& where);
  void Fault();
  void FailTwice(size_t index, SimWorker* worker);
  bool MayLoseNode() const;
  void OperatorStopLater();

  std::shared_ptr<Fabric> FabricOf(const proto::ExchangeTable& table, int64_t generation);
  void WorkerDied(const SimWorker& worker);
  void CheckPrograms();
  void CheckSilentNodesAreFenced();
  void CheckSpinningWorkersAreKilled();
  void CheckEnd();
  void CheckStopped();
  void CheckRootCauses();
  void CheckNothingLeft();
  void CheckReplay();
  bool Explained(int exit_code) const;

  World world_;
  proto::JobSpec job_;
  std::optional<launcher::Coordinator> coordinator_;
  Process coordinator_process_;
  std::vector<std::pair<absl::Duration, launcher::Event>> journal_;
  std::optional<launcher::StoryWriter> story_;
  std::vector<Stream> streams_;
  launcher::NodeClocks clocks_;
  std::vector<std::unique_ptr<SimAgent>> agents_;
  struct Wired {
    int64_t generation;
    std::vector<uint64_t> uids;
    std::shared_ptr<Fabric> fabric;
  };
  std::vector<Wired> fabrics_;
  std::map<uint64_t, bool> dead_;
  int faults_ = 0;
  int spins_ = 0;       // of them, workers whose engine loops for ever
  int own_doings_ = 0;  // generations that the faults of workers' own doing can end
  int heard_in_the_wrong_order_ = 0;
  int operator_stops_ = 0;
  std::map<SaveKey, int> grants_;
  int regrants_ = 0;
  int64_t newest_attempt_ = 0;
  bool stepped_ = false;         // the coordinator has heard of a step
  bool had_stepped_ = false;     // ... when the first Ctrl-C came
  bool was_recovering_ = false;  // the first Ctrl-C came between two generations
  bool coordinator_killed_ = false;
  const Sabotage sabotage_;
  const std::optional<double> restore_chance_;
  Random restore_luck_;
  int restores_ = 0;
  int64_t planned_generation_ = 0;  // the newest that was begun
  int master_port_ = 0;             // its port, in a program's job
  uint64_t transcript_ = 0;
  std::optional<launcher::EndJob> end_;
};

Outcome RunSeed(uint64_t seed, bool verbose = false, Sabotage sabotage = Sabotage::kNone,
                std::optional<double> restore_chance = std::nullopt);

// What the coordinator of a seed heard, as a story with its transcript (story_player.h). The
// comment at its top says the violation and the digest that the run ended with: that of the last
// line, if the story tells all. It plays the coordinator alone; what agents and workers decided is
// in it as what they said.
std::string StoryOfSeed(uint64_t seed, Sabotage sabotage = Sabotage::kNone);

}  // namespace dsrun::simulation

#endif  // DSRUN_TESTS_SIMULATION_CLUSTER_H_
