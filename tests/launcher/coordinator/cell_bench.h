// The coordinator core driven to a state, and one event of every kind, for the tables of
// cell_test.cc: two nodes of one slot; the event is the second node's (rank 1), of the present
// generation and incarnation, in a job that has made a step.

#ifndef DSRUN_TESTS_LAUNCHER_COORDINATOR_CELL_BENCH_H_
#define DSRUN_TESTS_LAUNCHER_COORDINATOR_CELL_BENCH_H_

#include <cstddef>
#include <deque>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "launcher/coordinator/coordinator.h"
#include "tests/launcher/coordinator/twin.h"

namespace dsrun::launcher {

enum class Kind {
  kStart,
  kOpened,
  kPrepared,
  kWorkerStarted,
  kWorkerKilled,
  kWorkerExitedWithZero,
  kExchangePut,
  kJoined,
  kStepDone,
  kFailed,
  kFailedForGood,
  kFinished,
  kNotice,
  kStacks,
  kShardWritten,
  kCommitDone,
  kHello,
  kBeat,
  kEmptyReport,
  kHeartbeat,
  kLogChunk,
  kJobEnded,
  kEmptyMessage,
  kAgentGone,
  kTick,
  kOperatorStop,
  kOperatorSignal,
  kNodeSilent,
  kPhaseDeadline,
  kCauseDeadline,
  kProgressMade,
  kCount,
};
constexpr size_t kKinds = static_cast<size_t>(Kind::kCount);

// A job driven to a state.
class Bench {
 public:
  explicit Bench(bool train) : coordinator_(Config(train)) {}
  explicit Bench(CoordinatorConfig config) : coordinator_(std::move(config)) {}

  static CoordinatorConfig Config(bool train) {
    CoordinatorConfig config;
    config.job_id = "cells";
    config.nodes = {{"alpha", {Slot(0)}}, {"beta", {Slot(0)}}};
    config.is_train = train;
    config.max_width = 2;
    config.max_restarts = 5;
    config.loading_timeout = absl::Minutes(1);  // found by Deadline below
    config.saving_timeout = absl::Minutes(1);
    return config;
  }

  Coordinator& coordinator() { return coordinator_; }

  // False: never in this state.
  bool DriveTo(Coordinator::State state) {
    const bool train = coordinator_.config().is_train;
    if (state == Coordinator::State::kDraining && train) return false;
    const auto there = [&] { return coordinator_.state() == state; };
    if (there()) return true;
    Feed(Start{});
    Feed(Spoke(0, Kind::kOpened));
    if (there()) return true;
    Feed(Spoke(1, Kind::kOpened));
    Feed(Spoke(0, Kind::kPrepared));
    Feed(Spoke(1, Kind::kPrepared));
    for (const int node : {0, 1}) Feed(Spoke(node, train ? Kind::kJoined : Kind::kWorkerStarted));
    if (train) {
      Feed(Spoke(0, Kind::kStepDone));
      for (const int node : {0, 1}) Feed(Part(node, /*step=*/1));
    }
    if (there()) return true;
    switch (state) {
      case Coordinator::State::kPreparing:
        if (train) {
          Feed(Spoke(0, Kind::kWorkerKilled));
          Feed(Spoke(0, Kind::kPrepared));
        } else {
          Feed(Spoke(0, Kind::kWorkerKilled));
          Feed(Spoke(1, Kind::kWorkerKilled));
          Feed(Spoke(0, Kind::kPrepared));
        }
        break;
      case Coordinator::State::kStarting:
        DriveOn(train);
        break;
      case Coordinator::State::kDraining:
        Feed(Spoke(0, Kind::kWorkerKilled));
        break;
      case Coordinator::State::kStopping:
        Feed(OperatorStop{});
        break;
      case Coordinator::State::kEnding:
        Feed(OperatorStop{});
        Feed(OperatorStop{});
        break;
      case Coordinator::State::kEnded:
        Feed(OperatorStop{});
        Feed(OperatorStop{});
        Feed(OperatorStop{});
        break;
      case Coordinator::State::kIdle:
      case Coordinator::State::kOpening:
      case Coordinator::State::kRunning:
        break;
    }
    EXPECT_TRUE(there()) << StateName(coordinator_.state()) << " instead of " << StateName(state);
    return true;
  }

  Event Make(Kind kind) const {
    switch (kind) {
      case Kind::kStart:
        return Start{};
      case Kind::kAgentGone:
        return AgentGone{NodeId(1), absl::UnavailableError("reset")};
      case Kind::kTick:
        return Tick{{NodeId(0), NodeId(1)}};
      case Kind::kOperatorStop:
        return OperatorStop{};
      case Kind::kOperatorSignal:
        return OperatorSignal{10};
      case Kind::kNodeSilent:
        return NodeSilent{NodeId(1)};
      case Kind::kPhaseDeadline:
        return Deadline(DeadlinePassed::Kind::kPhase);
      case Kind::kCauseDeadline:
        return Deadline(DeadlinePassed::Kind::kCause);
      case Kind::kProgressMade:
        return ProgressMade{coordinator_.generation(), 1};
      default:
        return Spoke(1, kind);
    }
  }

  // The numbers of deadlines count up from 1; the one in force is the one that is not ignored.
  Event Deadline(DeadlinePassed::Kind kind) const {
    Coordinator copy = coordinator_;
    // A tick long after raises what is due; a first one tells when the clock began.
    copy.Step(now_, Tick{});
    for (int second = 0; second < 200; ++second) {
      const absl::Duration at = now_ + absl::Seconds(second);
      for (const Action& action : copy.Step(at, Tick{{NodeId(0), NodeId(1)}})) {
        if (const auto* raise = std::get_if<Raise>(&action)) {
          const auto* passed = std::get_if<DeadlinePassed>(&raise->event);
          if (passed != nullptr && passed->kind == kind) return *passed;
        }
      }
    }
    return DeadlinePassed{kind, coordinator_.generation(), 0};
  }

  // A node's part of a save of the first generation.
  static Event Part(int node, int64_t step) {
    AgentSpoke spoke{NodeId(node), {}};
    spoke.message.set_incarnation(static_cast<uint64_t>(100 + node));
    proto::ShardWritten* written =
        spoke.message.mutable_worker_report()->mutable_message()->mutable_shard_written();
    written->mutable_save()->set_generation(1);
    written->mutable_save()->set_step(step);
    written->set_rank(node);
    written->set_width(2);
    written->set_samples(8 * step);
    written->set_record("a record");
    written->set_seconds(0.5);
    return spoke;
  }

  Event Spoke(int node, Kind kind) const {
    AgentSpoke spoke{NodeId(node), {}};
    proto::AgentMessage& message = spoke.message;
    message.set_incarnation(static_cast<uint64_t>(100 + node));
    message.set_generation(coordinator_.generation().value());
    proto::WorkerMessage report;
    report.set_generation(coordinator_.generation().value());
    bool is_report = true;
    switch (kind) {
      case Kind::kExchangePut:
        report.mutable_exchange_put()->set_name("world");
        report.mutable_exchange_put()->set_rank(node);
        break;
      case Kind::kJoined:
        report.mutable_joined();
        break;
      case Kind::kStepDone:
        report.mutable_step_done()->set_step(1);
        break;
      case Kind::kFailed:
        report.mutable_failed()->set_message("a peer is gone");
        break;
      case Kind::kFailedForGood:
        report.mutable_failed()->set_fatal(true);
        break;
      case Kind::kFinished:
        report.mutable_finished();
        break;
      case Kind::kNotice:
        report.mutable_notice()->set_text("disk full");
        break;
      case Kind::kStacks:
        report.mutable_stacks()->add_lines("main");
        break;
      case Kind::kShardWritten:
        return Part(node, /*step=*/2);
      case Kind::kCommitDone:
        report.mutable_commit_done()->mutable_save()->set_generation(1);
        report.mutable_commit_done()->mutable_save()->set_step(1);
        report.mutable_commit_done()->set_attempt(1);
        report.mutable_commit_done()->set_manifest("manifest-1");
        break;
      case Kind::kHello:
        report.mutable_hello();
        break;
      case Kind::kBeat:
        report.mutable_beat();
        break;
      case Kind::kEmptyReport:
        break;
      default:
        is_report = false;
    }
    if (is_report) {
      *message.mutable_worker_report()->mutable_message() = report;
      return spoke;
    }
    if (kind == Kind::kOpened) message.mutable_opened();
    if (kind == Kind::kPrepared) message.mutable_prepared()->set_master_port(29500);
    if (kind == Kind::kWorkerStarted) message.mutable_worker_started();
    if (kind == Kind::kWorkerKilled) message.mutable_worker_exited()->set_term_signal(9);
    if (kind == Kind::kWorkerExitedWithZero) message.mutable_worker_exited();
    if (kind == Kind::kHeartbeat) message.mutable_heartbeat();
    if (kind == Kind::kLogChunk) message.mutable_log_chunk();
    if (kind == Kind::kJobEnded) message.mutable_job_ended();
    return spoke;
  }

  void Pass(absl::Duration time) { now_ += time; }

  std::vector<Action> Feed(const Event& event) {
    std::vector<Action> all;
    std::deque<Event> queue = {event};
    while (!queue.empty()) {
      const Event next = queue.front();
      queue.pop_front();
      const auto [actions, difference] = StepBesideTwin(coordinator_, now_, next);
      EXPECT_EQ(difference, "");
      for (const Action& action : actions) {
        if (const auto* raise = std::get_if<Raise>(&action)) {
          std::visit([&](const auto& e) { queue.push_back(e); }, raise->event);
        }
        all.push_back(action);
      }
      EXPECT_EQ(coordinator_.CheckInvariants(), absl::OkStatus());
    }
    return all;
  }

 private:
  // Through a failure into the second generation's start.
  void DriveOn(bool train) {
    Feed(Spoke(0, Kind::kWorkerKilled));
    if (!train) Feed(Spoke(1, Kind::kWorkerKilled));
    Feed(Spoke(0, Kind::kPrepared));
    Feed(Spoke(1, Kind::kPrepared));
    Feed(Spoke(0, train ? Kind::kJoined : Kind::kWorkerStarted));
    if (train) Feed(Spoke(0, Kind::kExchangePut));
  }

  Coordinator coordinator_;
  absl::Duration now_ = absl::Seconds(100);
};

}  // namespace dsrun::launcher

#endif  // DSRUN_TESTS_LAUNCHER_COORDINATOR_CELL_BENCH_H_
