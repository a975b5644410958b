#include "tests/simulation/sim_worker.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/range.h"

namespace dsrun::simulation {
namespace {

constexpr absl::Duration kCollectiveTimeout = absl::Seconds(10);

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
  if (message.has_exchange_table() && message.generation() == generation_) {
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
  saving_ = false;
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
  if (saving_) {
    saving_ = false;
    ++op_;
    return Save();
  }
  state_ = Mix(state_, fabric_->Sum(op));
  ++step_;
  ++op_;
  StepFinished();
}

void SimWorker::StepFinished() {
  proto::WorkerMessage done = Message();
  done.mutable_step_done()->set_step(step_);
  Send(std::move(done));
  const bool last = step_ == world_->scenario.steps || stopping_;
  if (last || step_ % world_->scenario.save_every == 0) {
    saving_ = true;
    return EnterLater({0, false});
  }
  EnterNext();
}

// All shards are written. Rank 0 commits with one rename; the others go on.
void SimWorker::Save() {
  if (rank_ != 0) return Go();
  Later(world_->luck.Millis(0, 10), [this] {
    world_->Commit(step_, generation_, state_);
    proto::WorkerMessage committed = Message();
    committed.mutable_checkpoint_committed()->set_step(step_);
    committed.mutable_checkpoint_committed()->set_manifest(
        absl::StrCat("step-", step_, "-generation-", generation_));
    Send(std::move(committed));
    Go();
  });
}

void SimWorker::Go() {
  if (step_ == world_->scenario.steps || stopping_) return Finish();
  EnterNext();
}

void SimWorker::EnterNext() {
  if (step_ == world_->scenario.steps) return Finish();
  Fabric::Entry entry;
  entry.stop = stop_;
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
  if (fabric_ == nullptr || finished_) return;
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
