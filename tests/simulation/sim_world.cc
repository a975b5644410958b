#include "tests/simulation/sim_world.h"

#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dsrun::simulation {

Scenario Scenario::FromSeed(uint64_t seed) {
  Random luck(Mix(seed, 77));
  Scenario scenario;
  scenario.seed = seed;
  scenario.program = luck.Chance(0.15);
  const int64_t nodes = luck.Between(1, 4);
  int total = 0;
  for (int64_t i = 0; i < nodes; ++i) {
    scenario.slots.push_back(static_cast<int>(luck.Between(1, 3)));
    total += scenario.slots.back();
  }
  // Sometimes narrower than the slots there are: spare places.
  scenario.blocks = luck.Chance(0.2) ? luck.Between(1, total) : luck.Between(total, 2 * total);
  scenario.steps = luck.Between(3, 25);
  scenario.save_every = luck.Between(1, 8);
  const bool limited = luck.Chance(0.15);
  scenario.max_restarts = limited ? static_cast<int>(luck.Below(4)) : 1000;
  scenario.max_without_progress = limited ? static_cast<int>(luck.Between(1, 3)) : 0;
  scenario.faults = luck.Chance(0.1) ? 0 : static_cast<int>(luck.Between(1, kMostFaults));
  // Rare ones come while the job runs, frequent ones all in its first moments.
  constexpr double kChances[] = {0.005, 0.02, 0.06, 0.2};
  scenario.fault_chance = kChances[luck.Below(4)];
  scenario.spare_last_node = luck.Chance(0.85);
  scenario.own_agents = luck.Chance(0.5);
  scenario.operator_stop = luck.Chance(0.1);
  scenario.kill_coordinator = luck.Chance(0.04);
  return scenario;
}

uint64_t Scenario::UndisturbedState(int64_t step) const {
  uint64_t state = 1;
  for (int64_t s = 0; s < step; ++s) {
    uint64_t sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += Part(state, s, block);
    state = Mix(state, sum);
  }
  return state;
}

void Process::Deliver(std::function<void()> what) {
  if (!alive_) return;
  if (stopped_) return held_.push_back(std::move(what));
  what();
}

void Process::Wake() {
  if (!alive_ || !stopped_) return;
  stopped_ = false;
  // It may be stopped or killed again by what it finds.
  while (alive_ && !stopped_ && !held_.empty()) {
    const std::function<void()> first = std::move(held_.front());
    held_.pop_front();
    first();
  }
}

void Process::Die() {
  alive_ = false;
  stopped_ = false;
  held_.clear();
}

void World::Violated(const std::string& what) {
  Trace("VIOLATED: ", what);
  if (violation_.empty()) {
    violation_ = absl::StrCat("at ", absl::FormatDuration(now()), ": ", what);
  }
}

void World::Print(const std::string& line) const {
  std::printf("%10.4f %s\n", absl::ToDoubleSeconds(queue.now()), line.c_str());
}

void World::Commit(int64_t step, int64_t generation, uint64_t state) {
  Trace("disk: checkpoint of step ", step, ", generation ", generation);
  if (state != scenario.UndisturbedState(step)) {
    Violated(absl::StrCat("the checkpoint of step ", step, ", generation ", generation,
                          ", is not the undisturbed run's"));
  }
  disk_[{step, generation}] = {generation, state};
}

std::pair<int64_t, uint64_t> World::NewestCheckpoint() const {
  if (disk_.empty()) return {0, 1};
  return {disk_.rbegin()->first.first, disk_.rbegin()->second.state};
}

void World::Stepped(int64_t generation, const std::vector<std::pair<int, int>>& places) {
  for (const auto& place : places) {
    int64_t& newest = newest_by_place_[place];
    if (generation < newest) {
      Violated(absl::StrCat("generation ", generation, " made a step on node ", place.first,
                            " slot ", place.second, " after generation ", newest, " had"));
    }
    newest = generation;
  }
}

void Fabric::Enter(int rank, int64_t op, Entry entry) {
  auto& entries = entered_[op];
  entries[rank] = entry;
  if (lost_peer_ >= 0) return TellLost(rank, lost_peer_);
  if (static_cast<int>(entries.size()) == width()) Complete(op);
}

void Fabric::Complete(int64_t op) {
  Entry result;
  std::vector<std::pair<int, int>> places;
  for (const auto& [rank, entry] : entered_[op]) {
    result.part += entry.part;
    result.stop |= entry.stop;
    places.push_back(members_[static_cast<size_t>(rank)].place);
  }
  if (op == 0) start_ = world_->NewestCheckpoint();
  world_->Stepped(generation_, places);
  results_[op] = result;
  for (int rank = 0; rank < width(); ++rank) {
    world_->queue.After(world_->luck.Millis(1, 15), [this, rank, op] {
      if (told_.contains(rank)) return;
      Member& member = members_[static_cast<size_t>(rank)];
      member.process->Deliver([this, rank, op] {
        if (!told_.contains(rank)) members_[static_cast<size_t>(rank)].done(op);
      });
    });
  }
}

void Fabric::Leave(int rank) {
  if (told_.contains(rank)) return;
  told_.insert(rank);  // Nothing more for who has left.
  if (lost_peer_ < 0) lost_peer_ = rank;
  for (int peer = 0; peer < width(); ++peer) {
    if (!told_.contains(peer)) TellLost(peer, rank);
  }
}

int Fabric::Missing(int64_t op) const {
  const auto entered = entered_.find(op);
  for (int rank = 0; rank < width(); ++rank) {
    if (entered == entered_.end() || !entered->second.contains(rank)) return rank;
  }
  return -1;
}

void Fabric::Break() {
  if (lost_peer_ >= 0) return;
  lost_peer_ = 0;
  for (int rank = 0; rank < width(); ++rank) {
    if (!told_.contains(rank)) TellLost(rank, rank == 0 ? width() - 1 : 0);
  }
}

void Fabric::TellLost(int rank, int peer) {
  world_->queue.After(world_->luck.Millis(0, 20), [this, rank, peer] {
    Member& member = members_[static_cast<size_t>(rank)];
    if (member.process == nullptr || told_.contains(rank)) return;
    member.process->Deliver([this, rank, peer] {
      if (!told_.insert(rank).second) return;
      members_[static_cast<size_t>(rank)].peer_lost(peer);
    });
  });
}

}  // namespace dsrun::simulation
