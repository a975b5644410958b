// What all simulated processes share: the queue, luck, the shared disk, the wires between workers,
// the trace, and the list of what went wrong.

#ifndef DSRUN_TESTS_SIMULATION_SIM_WORLD_H_
#define DSRUN_TESTS_SIMULATION_SIM_WORLD_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "tests/simulation/sim_base.h"

namespace dsrun::simulation {

inline constexpr int kMostFaults = 10;

// What the seed decided about the job. Training is modelled by numbers: the state is one hash, a
// step adds the parts of all blocks to it, so a block that is missing or done twice shows.
struct Scenario {
  uint64_t seed = 0;
  bool program = false;
  std::vector<int> slots;  // by node
  int64_t blocks = 0;
  int64_t steps = 0;
  int64_t save_every = 0;
  int max_restarts = 0;
  int max_without_progress = 0;
  int faults = 0;               // at most so many, and never more than kMostFaults
  double fault_chance = 0;      // at every delivery
  bool spare_last_node = true;  // faults leave one node alone
  bool own_agents = false;      // a fenced agent is killed by the launcher
  bool operator_stop = false;
  bool kill_coordinator = false;

  static Scenario FromSeed(uint64_t seed);
  uint64_t Part(uint64_t state, int64_t step, int64_t block) const {
    return Mix(Mix(state, static_cast<uint64_t>(step)), static_cast<uint64_t>(block));
  }
  // The state after `step` steps when nothing ever failed.
  uint64_t UndisturbedState(int64_t step) const;
};

// A process: it runs, is stopped (what comes is kept until it is woken), or is dead.
class Process {
 public:
  virtual ~Process() = default;
  bool alive() const { return alive_; }
  bool stopped() const { return stopped_; }
  // Runs `what` in the process: now, when it is woken, or never.
  void Deliver(std::function<void()> what);
  void Stop() { stopped_ = alive_; }
  void Wake();
  void Die();

 private:
  bool alive_ = true;
  bool stopped_ = false;
  std::deque<std::function<void()>> held_;
};

// A save: step and generation.
using SaveKey = std::pair<int64_t, int64_t>;

// One rank's file of a save. Names carry the process, so nobody replaces anything.
struct Shard {
  SaveKey save;
  int rank = 0;
  uint64_t uid = 0;
  friend auto operator<=>(const Shard&, const Shard&) = default;
};

struct Manifest {
  uint64_t state = 0;
  std::vector<Shard> shards;
};

class World {
 public:
  World(const Scenario& scenario, bool verbose)
      : scenario(scenario), luck(scenario.seed), verbose_(verbose) {}

  const Scenario scenario;
  Random luck;
  SimQueue queue;

  absl::Duration now() const { return queue.now(); }
  // Only the first violation is kept: the others follow from it.
  void Violated(const std::string& what);
  const std::string& violation() const { return violation_; }
  template <typename... Args>
  void Trace(const Args&... args) {
    if (verbose_) Print(absl::StrCat(args...));
  }
  bool verbose() const { return verbose_; }

  // The shared folder.
  void Write(const Shard& shard, uint64_t state);
  // Unless a manifest names it.
  void Remove(const Shard& shard);
  // False: a shard is not there.
  bool Commit(SaveKey save, int64_t attempt, const std::vector<Shard>& shards);
  // As worker/checkpoint/prune.h does it.
  void Prune(int64_t generation, const std::set<SaveKey>& running);
  std::pair<int64_t, uint64_t> NewestCheckpoint();  // step and state; 0 and the first state
  bool HasCheckpoint() const { return !disk_.empty(); }
  int late_commits = 0;  // of a generation that was over

  // A generation finished a step on these places. Two generations must not both advance a place.
  void Stepped(int64_t generation, const std::vector<std::pair<int, int>>& places);

 private:
  void Print(const std::string& line) const;

  const bool verbose_;
  std::string violation_;
  bool Named(const Shard& shard) const;

  std::map<SaveKey, Manifest> disk_;  // committed; the last is the newest
  std::map<Shard, uint64_t> shards_;  // with the state that each is of
  std::map<std::pair<int, int>, int64_t> newest_by_place_;
};

// The connections of one generation: a row of collectives, each done when the last member has
// entered. When a member leaves, the others hear it, and a collective in flight is done for some of
// them and failed for others.
class Fabric {
 public:
  struct Member {
    Process* process = nullptr;
    std::pair<int, int> place;
    std::function<void(int64_t op)> done;     // all have entered `op`
    std::function<void(int peer)> peer_lost;  // once
  };
  struct Entry {
    uint64_t part = 0;
    bool stop = false;
    bool saving = false;
  };

  Fabric(World* world, int64_t generation, int width)
      : world_(world), generation_(generation), members_(static_cast<size_t>(width)) {}

  int width() const { return static_cast<int>(members_.size()); }
  void Join(int rank, Member member) { members_[static_cast<size_t>(rank)] = std::move(member); }
  bool HasJoined(int rank) const { return members_[static_cast<size_t>(rank)].process != nullptr; }
  void Enter(int rank, int64_t op, Entry entry);
  void Leave(int rank);
  // The first rank that has not entered `op`; -1: all have.
  int Missing(int64_t op) const;
  // A connection breaks although everybody lives.
  void Break();
  // The result of a finished collective.
  uint64_t Sum(int64_t op) const { return results_.at(op).part; }
  bool Stop(int64_t op) const { return results_.at(op).stop; }
  bool Saving(int64_t op) const { return results_.at(op).saving; }
  // The checkpoint all ranks load: chosen once, when the first collective is done.
  std::pair<int64_t, uint64_t> start() const { return start_; }

 private:
  void Complete(int64_t op);
  void TellLost(int rank, int peer);

  World* world_;
  int64_t generation_;
  std::vector<Member> members_;
  std::set<int> told_;
  int lost_peer_ = -1;
  std::map<int64_t, std::map<int, Entry>> entered_;
  std::map<int64_t, Entry> results_;
  std::pair<int64_t, uint64_t> start_;
};

}  // namespace dsrun::simulation

#endif  // DSRUN_TESTS_SIMULATION_SIM_WORLD_H_
