// A model of dsworker: says hello, joins generations, steps through collectives, saves, resumes. It
// keeps the worker's promises (proto/worker.proto) and nothing else of the engine.

#ifndef DSRUN_TESTS_SIMULATION_SIM_WORKER_H_
#define DSRUN_TESTS_SIMULATION_SIM_WORKER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "proto/worker.pb.h"
#include "tests/simulation/sim_world.h"

namespace dsrun::simulation {

// Mistakes that somebody could make, to see that the simulation notices them.
enum class Sabotage {
  kNone,
  kWrongBlocks,      // computes its part for the width of the generation before
  kLoadsStale,       // loads the checkpoint before the newest one, but says it is the newest
  kForgetsSuspects,  // a restored coordinator has forgotten who had reported a failure
};

class SimWorker : public Process {
 public:
  struct Doors {
    std::function<void(proto::WorkerMessage)> to_agent;
    std::function<void(int exit_code)> exit;
    // The fabric of these connections; the same for all who got the same table.
    std::function<std::shared_ptr<Fabric>(const proto::ExchangeTable&, int64_t generation)> fabric;
  };

  SimWorker(World* world, WorkerId place, uint64_t uid, Sabotage sabotage, Doors doors)
      : world_(world), place_(place), uid_(uid), sabotage_(sabotage), doors_(std::move(doors)) {}
  ~SimWorker() override;

  uint64_t uid() const { return uid_; }
  WorkerId place() const { return place_; }
  int64_t generation() const { return generation_; }

  void OnHost(const proto::HostMessage& message);
  // Its connections break; the process is dead already.
  void Died();
  // From now on it loops for ever in its own code, as soon as it is there; it beats on.
  void Spin();
  bool spins() const { return spins_; }
  // Since when it has done so; infinite: it does not.
  absl::Duration stuck_since() const { return stuck_since_; }
  proto::Beat CurrentBeat() const;

 private:
  void OnPlan(const proto::GenerationPlan& plan);
  void OnTable(const proto::ExchangeTable& table);
  void OnDone(int64_t op);
  void OnPeerLost(int peer, bool timed_out = false);
  void EnterNext();
  void EnterLater(Fabric::Entry entry);
  void StepFinished(bool others_save);
  void Go();
  void Finish();
  // Its writer, which goes on whatever becomes of the generation.
  void Snapshot(bool last);
  void Written(Shard shard, uint64_t state, int width, bool fails);
  void SaveLast();
  void OnCommit(const proto::CommitSave& commit);
  void OnDrop(const proto::DropSave& drop);
  void OnSaveOutcome(const proto::ExchangeTable& table);
  void LeaveFabric();
  // Runs in this process after a while, if it is still in the same attempt.
  // `waits`: not with the hands of its engine, so it happens although that spins.
  void Later(absl::Duration delay, std::function<void()> what, bool waits = false);
  // The same for its writer: whatever attempt it is in.
  void LaterInWriter(absl::Duration delay, std::function<void()> what);
  void Works();
  void Waits();
  proto::WorkerMessage Message() const;
  void Send(proto::WorkerMessage message) { doors_.to_agent(std::move(message)); }

  World* world_;
  const WorkerId place_;
  const uint64_t uid_;
  const Sabotage sabotage_;
  const Doors doors_;

  int64_t generation_ = 0;
  int rank_ = -1;
  int width_ = 0;
  int last_width_ = 0;
  uint64_t attempt_ = 0;
  std::shared_ptr<Fabric> fabric_;
  int64_t op_ = 0;
  bool writing_ = false;  // a snapshot of its own
  bool last_ = false;     // has made its last step, and saves it
  std::set<SaveKey> written_;
  std::set<int64_t> attempts_;
  bool stop_ = false;      // asked to stop after a checkpoint
  bool stopping_ = false;  // agreed upon
  int64_t step_ = 0;
  uint64_t state_ = 0;
  bool finished_ = false;
  bool spins_ = false;
  absl::Duration stuck_since_ = absl::InfiniteDuration();
  bool waits_ = true;   // in a collective, or for what the coordinator says
  uint64_t moves_ = 0;  // what its beat tells
};

}  // namespace dsrun::simulation

#endif  // DSRUN_TESTS_SIMULATION_SIM_WORKER_H_
