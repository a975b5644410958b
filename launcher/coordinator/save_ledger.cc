#include "launcher/coordinator/save_ledger.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/message_size.h"

namespace dsrun::launcher {
namespace {

// Remembered so that parts that come late are removed like the others.
constexpr size_t kMostDropped = 16;
// With room for what is around it.
constexpr size_t kMostGrantBytes = kMaxMessageBytes - (1 << 20);

void SetId(SaveLedger::Id id, proto::SaveId* to) {
  to->set_generation(id.generation);
  to->set_step(id.step);
}

SaveLedger::Id IdOf(const proto::SaveId& id) { return {id.generation(), id.step()}; }

std::string Name(SaveLedger::Id id) { return absl::StrCat(id.step, "/", id.generation); }

std::string Name(WorkerId worker) {
  return absl::StrCat(worker.node.value(), ":", worker.slot.value());
}

}  // namespace

// ---- Events

SaveLedger::Effects SaveLedger::Began(Generation generation, const std::vector<WorkerId>& ranks,
                                      const std::set<WorkerId>& survivors) {
  const std::map<WorkerId, Process> before = std::exchange(processes_, {});
  ready_count_ = 0;
  needs_.clear();
  for (const WorkerId& place : ranks) {
    const auto known = before.find(place);
    Put(place, known != before.end() && survivors.contains(place)
                   ? known->second
                   : Process{.born = generation.value(), .reported = {}, .joined = 0});
  }
  ranks_[generation.value()] = ranks;
  Effects effects;
  SettleAll(effects);
  return effects;
}

SaveLedger::Effects SaveLedger::Joined(WorkerId worker) {
  Effects effects;
  const auto process = processes_.find(worker);
  if (process == processes_.end()) return effects;
  Process joined = process->second;
  joined.joined = ranks_.rbegin()->first;
  Put(worker, joined);
  Settle({}, std::nullopt, effects);
  return effects;
}

SaveLedger::Effects SaveLedger::ProcessEnded(WorkerId place, Generation generation) {
  Effects effects;
  const auto process = processes_.find(place);
  // A process that came later: the news is old.
  if (process == processes_.end() || process->second.born > generation.value()) return effects;
  const int64_t newest = ranks_.empty() ? 0 : ranks_.rbegin()->first;
  if (newest > generation.value()) {
    Put(place, {.born = newest, .reported = {}, .joined = 0});
  } else {
    Remove(place);
  }
  Settle({place}, std::nullopt, effects);
  return effects;
}

SaveLedger::Effects SaveLedger::NodeLost(NodeId node) {
  std::vector<WorkerId> lost;
  const Slot lowest(std::numeric_limits<int32_t>::min());
  for (auto it = processes_.lower_bound({node, lowest});
       it != processes_.end() && it->first.node == node; ++it) {
    lost.push_back(it->first);
  }
  for (const WorkerId& place : lost) Remove(place);
  Effects effects;
  Settle(lost, std::nullopt, effects);
  return effects;
}

SaveLedger::Effects SaveLedger::Written(WorkerId from, const proto::ShardWritten& written) {
  Effects effects;
  const Id id = IdOf(written.save());
  const auto ranks = ranks_.find(id.generation);
  const auto process = processes_.find(from);
  if (ranks == ranks_.end() || process == processes_.end()) return effects;
  const auto width = static_cast<int64_t>(ranks->second.size());
  if (written.width() != width || written.rank() < 0 || written.rank() >= width ||
      ranks->second[static_cast<size_t>(written.rank())] != from ||
      process->second.born > id.generation || id <= process->second.reported) {
    return effects;
  }
  Process reported = process->second;
  reported.reported = id;
  Put(from, reported);
  const bool is_begun = !saves_.contains(id);
  if (dropped_.contains(id)) {
    effects.push_back(Dropped{.id = id, .reason = "", .failed = false, .remove = true});
  } else if (written.record().empty()) {
    Drop(id,
         {.id = id,
          .reason = absl::StrCat("rank ", written.rank(), ": ", written.error()),
          .failed = true,
          .remove = true,
          .code = written.code()},
         effects);
  } else {
    Save& save = saves_[id];
    save.samples = written.samples();
    save.seconds = std::max(save.seconds, written.seconds());
    save.records[written.rank()] = written.record();
  }
  Settle({from}, is_begun ? std::optional(id) : std::nullopt, effects);
  return effects;
}

SaveLedger::Effects SaveLedger::Done(WorkerId from, const proto::CommitDone& done) {
  Effects effects;
  const Id id = IdOf(done.save());
  const auto save = saves_.find(id);
  const bool possible = done.attempt() >= 1 && done.attempt() <= last_attempt_ && !ranks_.empty() &&
                        id.generation <= ranks_.rbegin()->first;
  if (!possible) return effects;
  if (done.error().empty() && !done.manifest().empty()) {
    // A repeat, or the answer of a committer that was given up: the manifest is known already.
    if (save == saves_.end() && Superseded(id)) return effects;
    const double written = save == saves_.end() ? 0 : save->second.seconds;
    const bool later = id.generation > newest_.generation;
    const bool newest = id.step > newest_.step || (id.step == newest_.step && later) ||
                        (later && id.generation > newest_seen_by_);
    if (newest) {
      newest_ = id;
      newest_seen_by_ = ranks_.rbegin()->first;
    }
    saves_.erase(id);
    // What it supersedes is removed before anybody who waits for this commit hears of it and ends.
    Settle({}, std::nullopt, effects);
    effects.push_back(Committed{.id = id,
                                .manifest = done.manifest(),
                                .seconds = written + done.seconds(),
                                .newest = newest});
    return effects;
  }
  if (save == saves_.end() || save->second.attempt == 0 || save->second.attempt != done.attempt() ||
      save->second.committer != from) {
    return effects;
  }
  Drop(id,
       {.id = id,
        .reason = absl::StrCat("its commit: ", done.error()),
        .failed = !Superseded(id),
        .remove = save->second.attempts == 1 && done.manifest().empty(),
        .code = done.code()},
       effects);
  Settle({}, std::nullopt, effects);
  return effects;
}

// ---- What follows

bool SaveLedger::Superseded(Id id) const {
  return newest_.step >= id.step && newest_.generation >= id.generation;
}

bool SaveLedger::Complete(Id id, const Save& save) const {
  const auto ranks = ranks_.find(id.generation);
  return ranks != ranks_.end() && save.records.size() == ranks->second.size();
}

bool SaveLedger::IsLost(Id id, const Save& save, size_t rank) const {
  if (save.records.contains(static_cast<int>(rank))) return false;
  const auto process = processes_.find(ranks_.at(id.generation)[rank]);
  return process == processes_.end() || process->second.born > id.generation ||
         process->second.reported >= id;
}

int SaveLedger::LostRank(Id id, const Save& save, const std::vector<WorkerId>& places) const {
  const auto ranks = ranks_.find(id.generation);
  if (ranks == ranks_.end()) return 0;
  int lost = -1;
  for (const WorkerId& place : places) {
    const auto at = std::lower_bound(ranks->second.begin(), ranks->second.end(), place);
    if (at == ranks->second.end() || *at != place) continue;
    const auto rank = static_cast<size_t>(at - ranks->second.begin());
    if (!IsLost(id, save, rank)) continue;
    lost = lost < 0 ? static_cast<int>(rank) : std::min(lost, static_cast<int>(rank));
  }
  return lost;
}

void SaveLedger::Put(WorkerId place, const Process& process) {
  const auto [at, is_new] = processes_.try_emplace(place, process);
  if (!is_new) Count(std::exchange(at->second, process), -1);
  Count(process, 1);
}

void SaveLedger::Remove(WorkerId place) {
  const auto at = processes_.find(place);
  Count(at->second, -1);
  processes_.erase(at);
}

void SaveLedger::Count(const Process& process, int64_t by) {
  if (process.joined > 0) ready_count_ += by;
  const auto at = needs_.try_emplace(std::max(process.born, process.reported.generation), 0).first;
  at->second += by;
  if (at->second == 0) needs_.erase(at);
}

std::vector<WorkerId> SaveLedger::Ready() const {
  std::vector<WorkerId> ready;
  if (ranks_.empty()) return ready;
  for (const WorkerId& place : ranks_.rbegin()->second) {
    const auto process = processes_.find(place);
    if (process != processes_.end() && process->second.joined > 0) ready.push_back(place);
  }
  return ready;
}

bool SaveLedger::MayCommit() const {
  const bool granted = std::any_of(saves_.begin(), saves_.end(),
                                   [](const auto& entry) { return entry.second.attempt != 0; });
  return granted || (!saves_.empty() && ready_count_ > 0);
}

void SaveLedger::Drop(Id id, Dropped dropped, Effects& effects) {
  saves_.erase(id);
  if (dropped.remove) dropped_.insert(id);
  while (dropped_.size() > kMostDropped) dropped_.erase(dropped_.begin());
  effects.push_back(std::move(dropped));
}

proto::CommitSave SaveLedger::Grant(Id id, const Save& save) const {
  proto::CommitSave commit;
  SetId(id, commit.mutable_save());
  commit.set_attempt(last_attempt_ + 1);
  commit.set_samples(save.samples);
  for (const auto& [rank, record] : save.records) commit.add_records(record);
  for (const auto& [other, unused] : saves_) {
    if (other != id) SetId(other, commit.add_running());
  }
  // Whoever has not joined yet may be loading it.
  const auto& [newest_generation, ranks] = *ranks_.rbegin();
  const auto has_joined = [&, in = newest_generation](const WorkerId& place) {
    const auto process = processes_.find(place);
    return process == processes_.end() || process->second.joined == in;
  };
  const bool all_joined = std::all_of(ranks.begin(), ranks.end(), has_joined);
  if (!all_joined && newest_.step > 0) SetId(newest_, commit.mutable_loaded());
  return commit;
}

void SaveLedger::GrantOrDrop(Id id, WorkerId to, Effects& effects) {
  Save& save = saves_.at(id);
  std::string trouble;
  if (save.attempts == kMostAttempts) {
    trouble = absl::StrCat(kMostAttempts, " processes ended, one after the other, while they ",
                           "committed it");
  }
  Granted granted{.to = to, .commit = {}};
  if (trouble.empty()) granted.commit = Grant(id, save);
  const size_t bytes = granted.commit.ByteSizeLong();
  if (bytes > kMostGrantBytes) {
    trouble = absl::StrCat("the list of its pieces has ", bytes >> 20, " MiB, and one message has ",
                           "room for ", kMostGrantBytes >> 20,
                           " MiB: fewer pieces come of a larger --bucket-bytes, or of fewer ranks");
  }
  if (!trouble.empty()) {
    return Drop(id,
                {.id = id,
                 .reason = trouble,
                 .failed = true,
                 .remove = save.attempts == 0,
                 .code = static_cast<int>(absl::StatusCode::kUnavailable)},
                effects);
  }
  ++save.attempts;
  save.attempt = ++last_attempt_;
  save.committer = to;
  save.committer_born = processes_.at(to).born;
  effects.push_back(std::move(granted));
}

std::optional<SaveLedger::Dropped> SaveLedger::WhyDropped(Id id, const Save& save,
                                                          int lost_rank) const {
  Dropped dropped{.id = id, .reason = "", .failed = false, .remove = save.attempts == 0};
  if (Superseded(id)) return dropped;
  if (lost_rank < 0) return std::nullopt;
  dropped.reason = absl::StrCat("the part of rank ", lost_rank, " is lost with it");
  return dropped;
}

void SaveLedger::Settle(const std::vector<WorkerId>& touched, std::optional<Id> begun,
                        Effects& effects) {
  std::vector<std::pair<Id, Dropped>> drops;
  for (auto& [id, save] : saves_) {
    if (save.attempt != 0) {
      const auto process = processes_.find(save.committer);
      if (process != processes_.end() && process->second.born == save.committer_born) continue;
      save.attempt = 0;
    }
    const int lost = LostRank(id, save, begun == id ? ranks_.at(id.generation) : touched);
    if (std::optional<Dropped> drop = WhyDropped(id, save, lost)) drops.push_back({id, *drop});
  }
  DropAndGrant(std::move(drops), effects);
}

void SaveLedger::SettleAll(Effects& effects) {
  std::vector<WorkerId> everywhere;
  for (const auto& [generation, places] : ranks_) {
    everywhere.insert(everywhere.end(), places.begin(), places.end());
  }
  Settle(everywhere, std::nullopt, effects);
}

void SaveLedger::DropAndGrant(std::vector<std::pair<Id, Dropped>> drops, Effects& effects) {
  for (auto& [id, drop] : drops) Drop(id, std::move(drop), effects);
  std::vector<Id> complete;
  for (const auto& [id, save] : saves_) {
    if (save.attempt == 0 && Complete(id, save)) complete.push_back(id);
  }
  if (!complete.empty() && ready_count_ > 0) {
    const std::vector<WorkerId> ready = Ready();
    for (const Id& id : complete) {
      // Another one at every attempt: what ended the last committer may have been the commit.
      GrantOrDrop(id, ready[static_cast<size_t>(saves_.at(id).attempts) % ready.size()], effects);
    }
  }
  Forget();
}

// Ranks of generations that nobody can report a save of any more.
void SaveLedger::Forget() {
  if (ranks_.empty()) return;
  int64_t oldest = ranks_.rbegin()->first;
  if (!needs_.empty()) oldest = std::min(oldest, needs_.begin()->first);
  if (!saves_.empty()) oldest = std::min(oldest, saves_.begin()->first.generation);
  ranks_.erase(ranks_.begin(), ranks_.lower_bound(oldest));
}

std::string SaveLedger::CheckInvariants() const {
  const std::vector<WorkerId> ready = Ready();
  if (static_cast<int64_t>(ready.size()) != ready_count_) return "it has miscounted who may commit";
  for (const auto& [id, save] : saves_) {
    const std::string which = absl::StrCat("save ", Name(id), " ");
    if (!ranks_.contains(id.generation)) return which + "is of a generation that is forgotten";
    if (save.attempt > last_attempt_) return which + "has an attempt that was never given out";
    if (save.attempt != 0) {
      if (!Complete(id, save)) return which + "is granted without all of its records";
      const auto process = processes_.find(save.committer);
      if (process == processes_.end() || process->second.born != save.committer_born) {
        return which + "waits for a committer that has ended";
      }
      continue;
    }
    if (LostRank(id, save, ranks_.at(id.generation)) >= 0)
      return which + "waits for a part that will never come";
    if (Complete(id, save) && !ready.empty()) return which + "is complete and nobody may commit it";
  }
  std::map<int64_t, int64_t> needs;
  for (const auto& [place, process] : processes_) {
    ++needs[std::max(process.born, process.reported.generation)];
  }
  if (needs != needs_) return "it has miscounted what may still be reported";
  for (const auto& [place, process] : processes_) {
    if (ranks_.empty() || process.born > ranks_.rbegin()->first) {
      return absl::StrCat("the process at ", Name(place), " is of a generation to come");
    }
  }
  return "";
}

std::string SaveLedger::ToString() const {
  std::string text = absl::StrCat("newest ", Name(newest_), " seen by ", newest_seen_by_,
                                  " last attempt ", last_attempt_);
  for (const auto& [place, process] : processes_) {
    absl::StrAppend(&text, " ", Name(place), "=", process.born, ",", process.joined, ",",
                    Name(process.reported));
  }
  for (const auto& [generation, ranks] : ranks_) {
    absl::StrAppend(&text, " g", generation, "x", ranks.size());
  }
  for (const auto& [id, save] : saves_) {
    absl::StrAppend(&text, " save ", Name(id), " of ", save.samples, " records");
    for (const auto& [rank, record] : save.records) absl::StrAppend(&text, " ", rank);
    absl::StrAppend(&text, " attempts ", save.attempts);
    if (save.attempt != 0) {
      absl::StrAppend(&text, " granted ", save.attempt, " to ", Name(save.committer));
    }
  }
  for (const Id& id : dropped_) absl::StrAppend(&text, " dropped ", Name(id));
  return text;
}

// ---- To bytes and back

proto::SaveLedgerState SaveLedger::Snapshot() const {
  const auto& [processes, ranks, saves, dropped, last_attempt, newest, newest_seen_by, ready_count,
               needs] = *this;
  proto::SaveLedgerState to;
  for (const auto& [place, process] : processes) {
    proto::SaveLedgerState::Process* one = to.add_processes();
    one->set_node(place.node.value());
    one->set_slot(place.slot.value());
    one->set_born(process.born);
    SetId(process.reported, one->mutable_reported());
    one->set_joined(process.joined);
  }
  for (const auto& [generation, places] : ranks) {
    proto::SaveLedgerState::Ranks* one = to.add_generations();
    one->set_generation(generation);
    for (const WorkerId& place : places) {
      one->add_nodes(place.node.value());
      one->add_slots(place.slot.value());
    }
  }
  for (const auto& [id, save] : saves) {
    proto::SaveLedgerState::Save* one = to.add_saves();
    SetId(id, one->mutable_id());
    one->set_samples(save.samples);
    one->set_seconds(save.seconds);
    for (const auto& [rank, bytes] : save.records) {
      proto::SaveLedgerState::Record* record = one->add_records();
      record->set_rank(rank);
      record->set_record(bytes);
    }
    one->set_attempts(save.attempts);
    one->set_attempt(save.attempt);
    one->set_node(save.committer.node.value());
    one->set_slot(save.committer.slot.value());
    one->set_committer_born(save.committer_born);
  }
  for (const Id& id : dropped) SetId(id, to.add_dropped());
  to.set_last_attempt(last_attempt);
  SetId(newest, to.mutable_newest());
  to.set_newest_seen_by(newest_seen_by);
  return to;
}

absl::StatusOr<SaveLedger> SaveLedger::Restore(size_t nodes, const proto::SaveLedgerState& from) {
  const absl::Status bad = absl::DataLossError("its ledger of saves contradicts itself");
  const auto no_node = [nodes](int32_t node) {
    return node < 0 || static_cast<size_t>(node) >= nodes;
  };
  SaveLedger ledger;
  for (const proto::SaveLedgerState::Process& one : from.processes()) {
    if (no_node(one.node())) return bad;
    ledger.Put({NodeId(one.node()), Slot(one.slot())},
               {one.born(), IdOf(one.reported()), one.joined()});
  }
  for (const proto::SaveLedgerState::Ranks& one : from.generations()) {
    if (one.nodes_size() != one.slots_size()) return bad;
    std::vector<WorkerId>& places = ledger.ranks_[one.generation()];
    for (int i = 0; i < one.nodes_size(); ++i) {
      if (no_node(one.nodes(i))) return bad;
      places.push_back({NodeId(one.nodes(i)), Slot(one.slots(i))});
    }
  }
  for (const proto::SaveLedgerState::Save& one : from.saves()) {
    const auto ranks = ledger.ranks_.find(one.id().generation());
    if (ranks == ledger.ranks_.end() || no_node(one.node())) return bad;
    Save& save = ledger.saves_[IdOf(one.id())];
    save.samples = one.samples();
    save.seconds = one.seconds();
    for (const proto::SaveLedgerState::Record& record : one.records()) {
      if (record.rank() < 0 || static_cast<size_t>(record.rank()) >= ranks->second.size()) {
        return bad;
      }
      save.records[record.rank()] = record.record();
    }
    save.attempts = one.attempts();
    save.attempt = one.attempt();
    save.committer = {NodeId(one.node()), Slot(one.slot())};
    save.committer_born = one.committer_born();
  }
  for (const proto::SaveId& id : from.dropped()) ledger.dropped_.insert(IdOf(id));
  ledger.last_attempt_ = from.last_attempt();
  ledger.newest_ = IdOf(from.newest());
  ledger.newest_seen_by_ = from.newest_seen_by();
  return ledger;
}

}  // namespace dsrun::launcher
