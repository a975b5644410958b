#include "tests/simulation/sim_worker.h"

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/range.h"
#include "common/format/save_outcome.h"

namespace dsrun::simulation {
namespace {

constexpr absl::Duration kCollectiveTimeout = absl::Seconds(10);
constexpr int kMostRanks = 16;

}  // namespace

SimWorker::~SimWorker() = default;

proto::WorkerMessage SimWorker::Message() const {
  proto::WorkerMessage message;
  message.set_job_id("simulation");
  message.set_incarnation(uid_);
  message.set_generation(generation_);
  return message;
}

void SimWorker::Later(absl::Duration delay, std::function<void()> what, bool waits) {
  world_->queue.After(delay, [this, attempt = attempt_, what = std::move(what), waits] {
    Deliver([this, attempt, what, waits] {
      if (attempt == attempt_ && (waits || !spins_)) what();
    });
  });
}

// Its engine computes: from here on a move is due, or it spins.
void SimWorker::Works() {
  ++moves_;
  waits_ = false;
  if (spins_) stuck_since_ = world_->now();
}

void SimWorker::Spin() {
  spins_ = true;
  if (!waits_) stuck_since_ = world_->now();
}

void SimWorker::Waits() {
  ++moves_;
  waits_ = true;
}

proto::Beat SimWorker::CurrentBeat() const {
  proto::Beat beat;
  beat.set_step(step_);
  beat.set_moves(moves_);
  if (!waits_) beat.mutable_patience()->set_seconds(1);
  return beat;
}

// A finished worker's last collective is complete: its leaving takes nothing from anybody.
void SimWorker::Died() {
  if (!finished_) LeaveFabric();
}

void SimWorker::LeaveFabric() {
  if (fabric_ != nullptr) std::exchange(fabric_, nullptr)->Leave(rank_);
}

void SimWorker::OnHost(const proto::HostMessage& message) {
  if (finished_) return;
  if (message.has_plan()) return OnPlan(message.plan());
  if (message.has_commit_save()) return OnCommit(message.commit_save());
  if (message.has_drop_save()) return OnDrop(message.drop_save());
  if (message.has_exchange_table() && message.generation() == generation_) {
    if (message.exchange_table().name().starts_with(kSaveOutcomePrefix)) {
      return OnSaveOutcome(message.exchange_table());
    }
    return OnTable(message.exchange_table());
  }
  if (message.has_take_stacks()) {
    proto::WorkerMessage answer = Message();
    answer.set_generation(message.generation());
    answer.mutable_stacks()->add_lines(spins_ ? "spinning" : waits_ ? "waiting" : "working");
    answer.mutable_stacks()->add_lines("main");
    return Send(std::move(answer));
  }
  if (!message.has_stop()) return;
  if (message.stop().checkpoint_first()) {
    stop_ = true;
  } else {
    doors_.exit(0);
  }
}

void SimWorker::OnPlan(const proto::GenerationPlan& plan) {
  if (plan.generation() <= generation_) return;
  LeaveFabric();
  ++attempt_;
  if (spins_) {  // its session hears of the plan and aborts; its engine never comes back
    if (waits_) Works();
    return;
  }
  Works();
  last_width_ = width_;
  generation_ = plan.generation();
  width_ = plan.members_size();
  rank_ = -1;
  op_ = 0;
  last_ = false;
  stopping_ = false;
  for (int i = 0; i < width_; ++i) {
    const proto::Member& member = plan.members(i);
    if (member.node() == place_.node.value() && member.slot() == place_.slot.value()) rank_ = i;
  }
  if (rank_ < 0) return Waits();
  Later(world_->luck.Millis(1, 10), [this] {
    proto::WorkerMessage put = Message();
    put.mutable_exchange_put()->set_name("world");
    put.mutable_exchange_put()->set_rank(rank_);
    put.mutable_exchange_put()->set_value(absl::StrCat(uid_));
    Send(std::move(put));
    Waits();
  });
}

void SimWorker::OnTable(const proto::ExchangeTable& table) {
  if (fabric_ != nullptr || rank_ < 0 || op_ != 0) return;
  if (table.values_size() != width_ || table.values(rank_) != absl::StrCat(uid_)) {
    return world_->Violated(
        absl::StrCat("worker ", uid_, " got a table without it, generation ", generation_));
  }
  fabric_ = doors_.fabric(table, generation_);
  fabric_->Join(rank_, {this,
                        {place_.node.value(), place_.slot.value()},
                        [this](int64_t op) { OnDone(op); },
                        [this](int peer) { OnPeerLost(peer); }});
  EnterLater({});
}

// Enters the next collective after some work, and gives it up after its timeout.
void SimWorker::EnterLater(Fabric::Entry entry) {
  Works();
  Later(world_->luck.Millis(2, 25), [this, entry] {
    if (fabric_ == nullptr) return;
    const int64_t op = op_;
    Waits();
    Later(
        kCollectiveTimeout,
        [this, op] {
          if (fabric_ != nullptr && op_ == op) OnPeerLost(fabric_->Missing(op), /*timed_out=*/true);
        },
        /*waits=*/true);
    // The last thing here: it may end this collective, or this worker's part in it.
    fabric_->Enter(rank_, op, entry);
  });
}

void SimWorker::OnDone(int64_t op) {
  if (fabric_ == nullptr || op != op_) return;
  Works();
  if (spins_) return;
  if (op == 0) {
    std::tie(step_, state_) = fabric_->start();
    if (sabotage_ == Sabotage::kLoadsStale && step_ > 0) {
      state_ = world_->scenario.UndisturbedState(step_ - 1);
    }
    proto::WorkerMessage joined = Message();
    joined.mutable_joined()->set_start_step(step_);
    if (step_ > 0) joined.mutable_joined()->set_loaded_from(absl::StrCat("step-", step_));
    Send(std::move(joined));
    ++op_;
    return EnterNext();
  }
  stopping_ |= fabric_->Stop(op);
  state_ = Mix(state_, fabric_->Sum(op));
  ++step_;
  ++op_;
  StepFinished(fabric_->Saving(op));
}

void SimWorker::StepFinished(bool others_save) {
  proto::WorkerMessage done = Message();
  done.mutable_step_done()->set_step(step_);
  Send(std::move(done));
  if (step_ == world_->scenario.steps || stopping_) {
    last_ = true;
    Waits();
    if (!writing_) SaveLast();  // else when that is through
    return;
  }
  if (step_ % world_->scenario.save_every == 0 && !others_save) Snapshot(/*last=*/false);
  EnterNext();
}

void SimWorker::SaveLast() { Snapshot(/*last=*/true); }

// ---- The writer

void SimWorker::LaterInWriter(absl::Duration delay, std::function<void()> what) {
  world_->queue.After(delay, [this, what = std::move(what)] { Deliver(what); });
}

// Mostly fast; sometimes the disk takes longer than a recovery.
void SimWorker::Snapshot(bool last) {
  if (writing_) world_->Violated("two snapshots at once");
  writing_ = true;
  const absl::Duration takes =
      world_->luck.Chance(0.1) ? world_->luck.Millis(100, 6000) : world_->luck.Millis(1, 40);
  const bool fails = !last && !world_->scenario.operator_stop && world_->luck.Chance(0.03);
  const Shard shard{{step_, generation_}, rank_, uid_};
  LaterInWriter(takes, [this, shard, state = state_, width = width_, fails] {
    Written(shard, state, width, fails);
  });
}

void SimWorker::Written(Shard shard, uint64_t state, int width, bool fails) {
  writing_ = false;
  proto::WorkerMessage message = Message();
  message.set_generation(shard.save.second);
  proto::ShardWritten* const written = message.mutable_shard_written();
  written->mutable_save()->set_step(shard.save.first);
  written->mutable_save()->set_generation(shard.save.second);
  written->set_rank(shard.rank);
  written->set_width(width);
  written->set_samples(shard.save.first);
  if (fails) {
    written->set_error("disk full");
  } else {
    world_->Write(shard, state);
    written_.insert(shard.save);
    written->set_record(absl::StrCat(uid_));
  }
  Send(std::move(message));
  if (last_ && shard.save != SaveKey(step_, generation_)) SaveLast();
}

void SimWorker::OnCommit(const proto::CommitSave& commit) {
  if (!attempts_.insert(commit.attempt()).second) return;
  const absl::Duration takes =
      world_->luck.Chance(0.1) ? world_->luck.Millis(10, 3000) : world_->luck.Millis(0, 10);
  LaterInWriter(takes, [this, commit] {
    const SaveKey save(commit.save().step(), commit.save().generation());
    std::vector<Shard> shards;
    for (int rank = 0; rank < commit.records_size(); ++rank) {
      uint64_t uid = 0;
      if (!absl::SimpleAtoi(commit.records(rank).c_str(), &uid)) world_->Violated("a bad record");
      shards.push_back({save, rank, uid});
    }
    const bool fails = !world_->scenario.operator_stop && save.first != world_->scenario.steps &&
                       world_->luck.Chance(0.03);
    const bool done = !fails && world_->Commit(save, commit.attempt(), shards);
    if (done && save.second < generation_) ++world_->late_commits;
    // It may be killed before anybody hears of it.
    LaterInWriter(world_->luck.Millis(0, 5), [this, commit, done, save] {
      proto::WorkerMessage message = Message();
      message.set_generation(save.second);
      proto::CommitDone* const answer = message.mutable_commit_done();
      *answer->mutable_save() = commit.save();
      answer->set_attempt(commit.attempt());
      if (done) {
        answer->set_manifest(absl::StrCat("step-", save.first, "-generation-", save.second));
      } else {
        answer->set_error("disk full");
      }
      Send(std::move(message));
      if (!done) return;
      std::set<SaveKey> running;
      for (const proto::SaveId& id : commit.running()) running.emplace(id.step(), id.generation());
      LaterInWriter(world_->luck.Millis(0, 20),
                    [this, save, running] { world_->Prune(save.second, running); });
    });
  });
}

void SimWorker::OnDrop(const proto::DropSave& drop) {
  const SaveKey save(drop.save().step(), drop.save().generation());
  if (written_.erase(save) == 0) return;
  for (int rank = 0; rank < kMostRanks; ++rank) world_->Remove({save, rank, uid_});
}

void SimWorker::OnSaveOutcome(const proto::ExchangeTable& table) {
  if (!last_ || table.name() != SaveOutcomeName(step_)) return;
  if (table.values(kSaveOutcomeManifest).empty()) {
    return world_->Violated("the last save failed, and nothing was wrong with the disk");
  }
  last_ = false;
  Finish();
}

void SimWorker::EnterNext() {
  if (step_ == world_->scenario.steps) return Finish();
  Fabric::Entry entry;
  entry.stop = stop_;
  entry.saving = writing_;
  int64_t width = width_;
  if (sabotage_ == Sabotage::kWrongBlocks && last_width_ > 0) width = last_width_;
  if (rank_ < width) {
    const Range blocks = EvenPart(world_->scenario.blocks, width, rank_);
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      entry.part += world_->scenario.Part(state_, step_, block);
    }
  }
  EnterLater(entry);
}

void SimWorker::Finish() {
  proto::WorkerMessage finished = Message();
  finished.mutable_finished()->set_step(step_);
  finished.mutable_finished()->set_manifest(
      absl::StrCat("step-", step_, "-generation-", generation_));
  finished.mutable_finished()->set_stopped_early(step_ < world_->scenario.steps);
  Send(std::move(finished));
  finished_ = true;
  world_->queue.After(world_->luck.Millis(1, 50), [this] { Deliver([this] { doors_.exit(0); }); });
}

void SimWorker::OnPeerLost(int peer, bool timed_out) {
  // Who waits for its last save exchanges nothing any more.
  if (fabric_ == nullptr || finished_ || last_) return;
  if (spins_ && !waits_) return;
  LeaveFabric();
  ++attempt_;
  Waits();
  if (spins_) return Works();
  proto::WorkerMessage failed = Message();
  failed.mutable_failed()->set_code(timed_out ? 4 : 14);  // DEADLINE_EXCEEDED, UNAVAILABLE
  failed.mutable_failed()->set_peer_rank(peer);
  failed.mutable_failed()->set_message(timed_out ? "no message" : "connection closed");
  Send(std::move(failed));
}

}  // namespace dsrun::simulation
