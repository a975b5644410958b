#include "worker/engine/generation.h"

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/format/checkpoint_reader.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/worker_cluster.h"
#include "tests/worker/engine/wrappers.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

TEST(GenerationTest, FinishesWithACheckpointOfTheLastStep) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  const auto outcomes = cluster.Run(2);
  for (const auto& outcome : outcomes) {
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(outcome->step(), 8);
    EXPECT_FALSE(outcome->stopped_early());
  }
  EXPECT_EQ(outcomes[0]->manifest(), "manifest.step-00000008.gen-0001.epoch-0004.json");
}

// What is there beside the trace is somebody's, whatever it is called.
TEST(GenerationTest, Trace_IsWrittenAndNoFileBesideItIsTouched) {
  FaultyFileSystem fs;
  fs.Write("/traces/mine.partial", "a text");
  proto::JobSpec job = Job();
  job.mutable_train()->set_trace_path("/traces/mine");
  WorkerCluster cluster(job, fs);
  for (const auto& outcome : cluster.Run(2)) ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(*ReadFile(fs, "/traces/mine.partial"), "a text");
  EXPECT_EQ(*fs.List("/traces"), (std::vector<std::string>{"mine", "mine.partial"}));
}

// Supersedes generations at steps 3 and 5, each time going on with another width.
TEST(GenerationTest, SupersededGenerations_EndWithTheUndisturbedHash) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  std::atomic<int64_t> disturb_at{3};
  std::vector<int64_t> starts;
  cluster.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (rank == Rank(0) && message.has_joined()) starts.push_back(message.joined().start_step());
    if (message.has_step_done() && message.step_done().step() == disturb_at) cluster.Announce();
  };
  // Rank 0 announces between two steps and hears it first. Another one hears it too, or of a peer
  // that has left because it heard it: whichever comes first.
  for (const int width : {4, 3}) {
    const auto outcomes = cluster.Run(width);
    EXPECT_EQ(outcomes[0].status().code(), absl::StatusCode::kAborted) << outcomes[0].status();
    for (const auto& outcome : outcomes) {
      EXPECT_TRUE(absl::IsAborted(outcome.status()) || absl::IsUnavailable(outcome.status()))
          << outcome.status();
    }
    disturb_at = 5;
  }
  disturb_at = -1;
  for (const auto& outcome : cluster.Run(1)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(starts, (std::vector<int64_t>{0, 2, 4}));
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

// Rank 1 hangs in its own code in step 3, while rank 0 waits for it in a collective: the beat of
// rank 1 says that a move is due and none comes, that of rank 0 that it waits.
TEST(GenerationTest, RankThatHangsInItsOwnCode_IsTheOneWhoseBeatAsksForAMove) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  Mutex mu;
  CondVar changed;
  bool hangs = false;
  bool seen = false;
  cluster.before_sample = [&](Rank rank) {
    if (rank != Rank(1) || cluster.beat(rank).step() != 2) return;
    MutexLock lock(mu);
    hangs = true;
    changed.NotifyAll();
    while (!seen) changed.Wait(mu);
  };
  std::thread observer([&] {
    {
      MutexLock lock(mu);
      while (!hangs) changed.Wait(mu);
    }
    // Rank 0 gets to its collective in step 3, and then its beat has no limit. What the step before
    // left under way, the gathering of parameters, comes to its end before: rank 1 moves no more,
    // else this never ends.
    const auto waits = [&] {
      const proto::Beat beat = cluster.beat(Rank(0));
      return beat.step() == 2 && beat.phase() == "training" && !beat.has_patience();
    };
    const auto stands_still = [&] {
      const proto::Beat before = cluster.beat(Rank(1));
      for (int look = 0; look < 1000; ++look) {
        std::this_thread::yield();
        const proto::Beat now = cluster.beat(Rank(1));
        if (!waits() || !now.has_patience() || now.moves() != before.moves()) return false;
      }
      return true;
    };
    while (!stands_still()) std::this_thread::yield();
    EXPECT_EQ(cluster.beat(Rank(1)).phase(), "training");
    EXPECT_TRUE(cluster.beat(Rank(1)).has_patience());
    MutexLock lock(mu);
    seen = true;
    changed.NotifyAll();
  });
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  observer.join();
  // The last thing that it did has a limit of its own.
  EXPECT_EQ(cluster.beat(Rank(0)).phase(), "saving");
  EXPECT_EQ(cluster.beat(Rank(0)).patience().seconds(), 1800);
}

// An event that threads wait for.
class Gate {
 public:
  void Open() {
    MutexLock lock(mu_);
    open_ = true;
    changed_.NotifyAll();
  }
  void Await() {
    MutexLock lock(mu_);
    while (!open_) changed_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mu_) = false;
};

// Fails in the backward pass of its `at`-th call, when `ready_to_fail` has returned.
class FailingModel : public ModelWrapper {
 public:
  FailingModel(std::unique_ptr<Model> inner, int at, std::function<void()> ready_to_fail)
      : ModelWrapper(*inner), inner_(std::move(inner)), at_(at), ready_(std::move(ready_to_fail)) {}

 protected:
  absl::Status Taken(size_t layer) override {
    if (layer > 0 || ++calls_ != at_) return absl::OkStatus();
    ready_();
    return absl::InternalError("the library has lost its mind");
  }

 private:
  const std::unique_ptr<Model> inner_;
  const int at_;
  const std::function<void()> ready_;
  int calls_ = 0;
};

// Rank 0 fails by itself in step 2, while its communication thread waits for rank 1, which is
// stopped. Its generation is over at once: rank 1 is woken by nothing but rank 0's outcome, and by
// their deadlines both would wait for an hour.
TEST(GenerationTest, FailureWhileTheCommunicationThreadIsBlocked_EndsWithoutTheDeadline) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  job.mutable_train()->set_global_batch_size(8);  // two micro-batches a rank: backward never waits
  job.mutable_limits()->mutable_collective_timeout()->set_seconds(3600);
  job.mutable_limits()->mutable_progress_timeout()->set_seconds(3600);
  WorkerCluster cluster(job, fs);
  Gate rank_0_is_over;
  cluster.before_sample = [&](Rank rank) {
    if (rank == Rank(1) && cluster.beat(rank).step() == 1) rank_0_is_over.Await();
  };
  cluster.adjust_engine = [&](Rank rank, Engine& engine) {
    if (rank != Rank(0)) return;
    engine.model = std::make_unique<FailingModel>(std::move(engine.model), 4, [&] {
      while (cluster.beat(Rank(0)).has_patience()) std::this_thread::yield();  // it exchanges
    });
  };
  cluster.on_outcome = [&](Rank rank, const absl::Status&) {
    if (rank == Rank(0)) rank_0_is_over.Open();
  };
  const auto outcomes = cluster.Run(2);
  EXPECT_EQ(outcomes[0].status(), absl::InternalError("the library has lost its mind"));
  EXPECT_EQ(VerdictOf(outcomes[0].status()), proto::Failed::kReplaceProcess);
  EXPECT_EQ(outcomes[1].status().code(), absl::StatusCode::kUnavailable) << outcomes[1].status();
  EXPECT_EQ(VerdictOf(outcomes[1].status()), proto::Failed::kRetry);
}

// It would train every rank on its own share of the batch, and say nothing.
TEST(GenerationTest, PlanOfAModelParallelJob_IsRefused) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.adjust_plan = [](proto::GenerationPlan& plan) {
    plan.mutable_mesh()->set_tp(2);
    plan.mutable_mesh()->set_dp(1);
  };
  for (const auto& outcome : cluster.Run(2)) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kUnimplemented) << outcome.status();
    EXPECT_EQ(VerdictOf(outcome.status()), proto::Failed::kEndJob);
  }
}

// Remembers by what limit each exchange was made: by its name, the last one.
class LimitRecorder : public CommunicatorWrapper {
 public:
  LimitRecorder(std::unique_ptr<Communicator> inner, std::map<std::string, absl::Duration>* limits)
      : CommunicatorWrapper(*inner), inner_(std::move(inner)), limits_(*limits) {}

  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    limits_.try_emplace("first " + what, timeout_);
    limits_[what] = timeout_;
    return CommunicatorWrapper::Exchange(sends, recvs, what);
  }
  void SetTimeout(absl::Duration timeout) override {
    timeout_ = timeout;
    CommunicatorWrapper::SetTimeout(timeout);
  }

 private:
  const std::unique_ptr<Communicator> inner_;
  std::map<std::string, absl::Duration>& limits_;
  absl::Duration timeout_;
};

// Nobody waits for a disk by a limit of training, nor for the first step by a guess.
TEST(GenerationTest, EveryExchange_HasTheLimitOfItsClass) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  proto::Limits& limits = *job.mutable_limits();
  limits.mutable_collective_timeout()->set_seconds(20);
  limits.mutable_first_step_timeout()->set_seconds(25);
  limits.mutable_load_timeout()->set_seconds(1000);
  limits.mutable_initialize_timeout()->set_seconds(200);
  WorkerCluster cluster(job, fs);
  std::map<std::string, absl::Duration> seen[2];
  cluster.wrap_communicator = [&](Rank rank, std::unique_ptr<Communicator> inner) {
    return std::make_unique<LimitRecorder>(std::move(inner),
                                           &seen[static_cast<size_t>(rank.value())]);
  };
  // Who hangs in its own code before the first step ends is found, too.
  cluster.before_sample = [&](Rank rank) {
    const proto::Beat beat = cluster.beat(rank);
    if (beat.step() > 0) return;
    EXPECT_EQ(beat.phase(), "first step");
    EXPECT_TRUE(beat.has_patience());
    EXPECT_LE(beat.patience().seconds(), 25);
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  for (std::map<std::string, absl::Duration>& limit : seen) {
    EXPECT_EQ(limit["which checkpoint to load"], absl::Seconds(1220));
    EXPECT_EQ(limit["everybody is ready for the first step"], absl::Seconds(1220));
    EXPECT_GE(limit["first losses and gradient norm"], absl::Seconds(20));
    EXPECT_LE(limit["first losses and gradient norm"], absl::Seconds(25));
    EXPECT_EQ(limit["losses and gradient norm"], absl::Seconds(20));
  }
}

// Every target of steps 3 to 5 is masked: three steps, told at the first and the second of them.
TEST(GenerationTest, MaskedBatches_AreStepsWithLossZeroAndANotice) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  std::map<int64_t, double> losses;
  cluster.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (message.has_step_done()) losses[message.step_done().step()] = message.step_done().loss();
  };
  cluster.adjust_sample = [](int64_t index, std::span<int32_t> targets) {
    if (index / 8 >= 2 && index / 8 <= 4) std::ranges::fill(targets, -1);
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(losses.size(), 8u);
  for (const auto& [step, loss] : losses) {
    if (step >= 3 && step <= 5) {
      EXPECT_EQ(loss, 0.0) << step;
    } else {
      EXPECT_GT(loss, 1.0) << step;
    }
  }
  const std::vector<std::string> warnings = cluster.warnings();
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("step 3: every target of the batch is masked"), std::string::npos)
      << warnings[0];
  EXPECT_NE(warnings[1].find("step 4"), std::string::npos) << warnings[1];
}

TEST(GenerationTest, StopRequest_EndsAllRanksAtOneStepWithACheckpoint) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 3) cluster.RequestStop();
  };
  const auto outcomes = cluster.Run(3);
  for (const auto& outcome : outcomes) {
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_TRUE(outcome->stopped_early());
    EXPECT_EQ(outcome->step(), outcomes[0]->step());
  }
  EXPECT_LT(outcomes[0]->step(), 8);
  EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest().facts.key.step,
            Step(outcomes[0]->step()));
}

}  // namespace
}  // namespace dsrun::worker
