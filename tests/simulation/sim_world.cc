#include "tests/simulation/sim_world.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

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

void World::Write(const Shard& shard, uint64_t state) {
  if (!shards_.emplace(shard, state).second) Violated("a shard was written twice");
}

bool World::Named(const Shard& shard) const {
  for (const auto& [save, manifest] : disk_) {
    if (std::count(manifest.shards.begin(), manifest.shards.end(), shard) > 0) return true;
  }
  return false;
}

void World::Remove(const Shard& shard) {
  if (Named(shard)) return;
  shards_.erase(shard);
}

bool World::Commit(SaveKey save, int64_t attempt, const std::vector<Shard>& shards) {
  const auto [step, generation] = save;
  Trace("disk: checkpoint of step ", step, ", generation ", generation, ", attempt ", attempt);
  if (disk_.contains(save)) return true;
  for (const Shard& shard : shards) {
    const auto there = shards_.find(shard);
    if (there == shards_.end()) {
      // Of a save that has been overtaken they may be tidied away; of no other.
      if (disk_.empty() || disk_.rbegin()->first.first < step) {
        Violated(absl::StrCat("the shard of rank ", shard.rank, " for step ", step, ", generation ",
                              generation, ", is gone before its commit"));
      }
      return false;
    }
    if (there->second != scenario.UndisturbedState(step)) {
      Violated(absl::StrCat("the checkpoint of step ", step, ", generation ", generation,
                            ", is not the undisturbed run's"));
    }
  }
  disk_[save] = {scenario.UndisturbedState(step), shards};
  return true;
}

void World::Prune(int64_t generation, const std::set<SaveKey>& running) {
  constexpr int kKeep = 3;
  std::vector<SaveKey> old;
  int whole = 0;
  for (auto each = disk_.rbegin(); each != disk_.rend(); ++each) {
    if (each->first.second > generation) continue;
    if (++whole > kKeep) old.push_back(each->first);
  }
  for (const SaveKey& save : old) {
    const std::vector<Shard> shards = disk_[save].shards;
    disk_.erase(save);
    for (const Shard& shard : shards) Remove(shard);
  }
  std::vector<Shard> orphans;
  for (const auto& [shard, state] : shards_) {
    if (shard.save.second < generation && !running.contains(shard.save)) orphans.push_back(shard);
  }
  for (const Shard& shard : orphans) Remove(shard);
}

std::pair<int64_t, uint64_t> World::NewestCheckpoint() {
  if (disk_.empty()) return {0, 1};
  const auto& [save, manifest] = *disk_.rbegin();
  for (const Shard& shard : manifest.shards) {
    if (!shards_.contains(shard)) {
      Violated(absl::StrCat("the committed checkpoint of step ", save.first, ", generation ",
                            save.second, ", lacks the shard of rank ", shard.rank));
    }
  }
  return {save.first, manifest.state};
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
    result.saving |= entry.saving;
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
