// One simulated node: the real NodeCore (agent/node_core.h) in a shell of simulated processes. The
// keeper is part of it: when the agent dies, everything on the node dies.

#ifndef DSRUN_TESTS_SIMULATION_SIM_AGENT_H_
#define DSRUN_TESTS_SIMULATION_SIM_AGENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "agent/node_core.h"
#include "common/base/ids.h"
#include "tests/simulation/sim_worker.h"
#include "tests/simulation/sim_world.h"

namespace dsrun::simulation {

class SimAgent : public Process {
 public:
  struct Doors {
    std::function<void(proto::AgentMessage)> to_coordinator;
    std::function<void()> over;  // the agent has ended by itself or died: its stream breaks
    std::function<std::shared_ptr<Fabric>(const proto::ExchangeTable&, int64_t generation)> fabric;
    std::function<void()> worker_spawned;
    std::function<void(const SimWorker&)> worker_died;
    std::function<void(const std::string& where)> maybe_fault;  // may kill anything
  };

  SimAgent(World* world, NodeId node, Sabotage sabotage, Doors doors);

  NodeId node() const { return node_; }
  void FromCoordinator(const proto::CoordinatorMessage& message);
  void StreamGone(const std::string& why);
  // kill -9 of the agent; its keeper ends the workers at once.
  void Kill();
  // SIGSTOP; after `agent_stalled_after` the keeper kills it.
  void StopFor(absl::Duration how_long);
  // A signal that asks for an end reaches it, or its keeper.
  void AskToStop(int signal);

  // Live processes, a stopped one included.
  std::vector<SimWorker*> LiveWorkers() const;
  // kill -9 of a worker, or SIGSTOP for a while.
  void KillWorkerProcess(SimWorker* worker, int signal);
  void StopWorkerFor(SimWorker* worker, absl::Duration how_long);
  // An endless loop in a worker's engine; its beat thread goes on.
  void SpinWorker(SimWorker* worker);
  // Programs only: the generations whose processes live here.
  std::vector<int64_t> ProgramGenerations() const;

 private:
  struct Child {
    std::unique_ptr<SimWorker> worker;
    bool live = true;
    bool reported = false;
    absl::Duration wire_free;  // its session delivers in order
    int64_t program_generation = 0;
  };

  void Feed(const agent::NodeEvent& event);
  void Perform(const agent::NodeAction& action);
  void Spawn(const agent::SpawnWorker& action);
  void Boot(Child* child);
  void BootProgram(Child* child);
  void End(Child* child, int exit_code, int signal);
  void Ladder(const agent::StopLadder& ladder);
  void ToWorker(Slot slot, const proto::HostMessage& message);
  void FromWorker(Child* child, proto::WorkerMessage message);
  void Beat(Child* child);
  void TickLater();
  absl::Duration Clock() const { return world_->now() + skew_; }
  Child* ChildIn(Slot slot);
  absl::Duration OnWire(Child* child);

  World* world_;
  const NodeId node_;
  const Sabotage sabotage_;
  const Doors doors_;
  const double slowness_;
  const absl::Duration skew_;  // of this node's steady clock
  agent::NodeCore core_;
  std::vector<std::unique_ptr<Child>> children_;  // never removed: late deliveries point to them
  std::map<Slot, Child*> by_slot_;
  int32_t port_ = 29500;  // the last one reserved
};

}  // namespace dsrun::simulation

#endif  // DSRUN_TESTS_SIMULATION_SIM_AGENT_H_
