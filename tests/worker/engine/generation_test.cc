#include "worker/engine/generation.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "common/format/tags.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/fakes/stopping_file_system.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"
#include "tests/worker/engine/wrappers.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

constexpr char kFolder[] = "/checkpoints";

proto::JobSpec Job(const std::string& id = "job") {
  proto::JobSpec job;
  job.set_job_id(id);
  *job.mutable_train() = TinySpec(/*micro_batches=*/4, /*canonical_blocks=*/4);
  job.mutable_train()->set_train_iters(8);
  job.mutable_train()->set_save_interval(2);
  job.mutable_train()->set_save_dir(kFolder);
  job.mutable_limits()->mutable_join_timeout()->set_seconds(30);
  job.mutable_limits()->mutable_collective_timeout()->set_seconds(30);
  return job;
}

std::string NewestHash(FaultyFileSystem& fs, const std::string& job_id = "job") {
  FindOptions options;
  options.job_id = job_id;
  absl::StatusOr<Checkpoint> checkpoint = FindNewestCheckpoint(fs, kFolder, options, nullptr);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *ContentHash(*checkpoint) : "";
}

std::string UndisturbedHash() {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  return NewestHash(fs);
}

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
    // What the step before left under way, the gathering of parameters, comes to its end.
    while (!cluster.beat(Rank(1)).has_patience()) std::this_thread::yield();
    const proto::Beat before = cluster.beat(Rank(1));
    EXPECT_EQ(before.phase(), "training");
    EXPECT_TRUE(before.has_patience());
    // Rank 0 gets to its collective in step 3, and then its beat has no limit.
    const auto waits = [&] {
      const proto::Beat beat = cluster.beat(Rank(0));
      return beat.step() == 2 && beat.phase() == "training" && !beat.has_patience();
    };
    while (!waits()) std::this_thread::yield();
    EXPECT_EQ(cluster.beat(Rank(1)).moves(), before.moves());
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

  absl::Status Backward(const float* parameters, float* gradients, const RangeFn& ready) override {
    const bool fails = ++calls_ == at_;
    return ModelWrapper::Backward(parameters, gradients, [&](Range range) -> absl::Status {
      if (absl::Status status = ready(range); !status.ok()) return status;
      if (!fails || range.begin > 0) return absl::OkStatus();
      ready_();
      return absl::InternalError("the library has lost its mind");
    });
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
  job.mutable_train()->set_global_batch_size(4);  // one micro-batch a rank
  job.mutable_train()->set_canonical_blocks(2);
  job.mutable_limits()->mutable_collective_timeout()->set_seconds(3600);
  job.mutable_limits()->mutable_progress_timeout()->set_seconds(3600);
  WorkerCluster cluster(job, fs);
  Gate rank_0_is_over;
  cluster.before_sample = [&](Rank rank) {
    if (rank == Rank(1) && cluster.beat(rank).step() == 1) rank_0_is_over.Await();
  };
  cluster.adjust_engine = [&](Rank rank, Engine& engine) {
    if (rank != Rank(0)) return;
    engine.model = std::make_unique<FailingModel>(std::move(engine.model), 2, [&] {
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

// The disk is slow: one operation of one rank's writer takes until it is let go.
class SlowDisk {
 public:
  // `on_slow` is called when that operation begins, from the writer's thread. It has returned when
  // hit() says so.
  SlowDisk(FileSystem& fs, int64_t operation, std::function<void()> on_slow)
      : on_slow_(std::move(on_slow)), fs_(fs, operation, [this] { Wait(); }) {}
  ~SlowDisk() { LetGo(); }

  FileSystem* file_system() { return &fs_; }
  void LetGo() {
    MutexLock lock(mu_);
    free_ = true;
    changed_.NotifyAll();
  }
  bool hit() {
    MutexLock lock(mu_);
    while (begun_ && !hit_) changed_.Wait(mu_);
    return hit_;
  }

 private:
  void Wait() {
    {
      MutexLock lock(mu_);
      begun_ = true;
    }
    on_slow_();
    MutexLock lock(mu_);
    hit_ = true;
    changed_.NotifyAll();
    while (!free_) changed_.Wait(mu_);
  }

  Mutex mu_;
  CondVar changed_;
  bool free_ ABSL_GUARDED_BY(mu_) = false;
  bool begun_ ABSL_GUARDED_BY(mu_) = false;
  bool hit_ ABSL_GUARDED_BY(mu_) = false;
  const std::function<void()> on_slow_;
  StoppingFileSystem fs_;
};

// What a reader finds is whole, to the last byte of its last shard, and what its step should be.
void ExpectNewestIsWhole(FaultyFileSystem& fs) {
  FindOptions options;
  options.job_id = "job";
  std::vector<std::string> rejected;
  const absl::StatusOr<Checkpoint> newest = FindNewestCheckpoint(fs, kFolder, options, &rejected);
  EXPECT_TRUE(newest.ok() || absl::IsNotFound(newest.status())) << newest.status();
  EXPECT_TRUE(rejected.empty()) << rejected[0];
}

// A process dies in the middle of any operation of its writer, be it of its shard, of the commit or
// of the tidying: nobody waits for that operation, what is on the disk is whole, and the others go
// on. When the operation comes to its end after all, as that of a process that was only stopped,
// nothing is spoilt.
void DieInEveryThirdOperation(Rank victim) {
  const std::string undisturbed = UndisturbedHash();
  int hits = 0;
  int64_t operation = 0;
  for (bool hit = true; hit; operation += 3) {
    SCOPED_TRACE(testing::Message() << "operation " << operation);
    FaultyFileSystem fs;
    WorkerCluster cluster(Job(), fs);
    cluster.await_saves = false;
    SlowDisk disk(fs, operation, [&] { cluster.Announce(); });
    bool born = false;
    cluster.file_system_of = [&](Rank rank) -> FileSystem* {
      if (rank != victim || std::exchange(born, true)) return &fs;
      return disk.file_system();
    };
    auto outcomes = cluster.Run(2);
    hit = disk.hit();
    if (!hit) {
      for (const auto& outcome : outcomes) EXPECT_TRUE(outcome.ok()) << outcome.status();
      break;
    }
    ++hits;
    for (const auto& outcome : outcomes) {  // one may have finished, if it was the last pruning
      EXPECT_TRUE(outcome.ok() || absl::IsAborted(outcome.status()) ||
                  absl::IsUnavailable(outcome.status()))
          << outcome.status();
    }
    const auto of_victim = static_cast<size_t>(victim.value());
    EXPECT_FALSE(outcomes[of_victim].ok()) << "another generation counts on it";
    cluster.Kill(victim);
    ExpectNewestIsWhole(fs);
    for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    ExpectNewestIsWhole(fs);
    EXPECT_EQ(NewestHash(fs), undisturbed);
    disk.LetGo();
    cluster.AwaitDead();
    ExpectNewestIsWhole(fs);
    EXPECT_EQ(NewestHash(fs), undisturbed);
    if (testing::Test::HasFailure()) return;
  }
  std::cout << hits << " operations of rank " << victim << " were its last\n";
  EXPECT_GT(hits, 6);
}

TEST(GenerationTest, CommitterThatDiesInAnyOperation_SpoilsNothingAndNobodyWaits) {
  DieInEveryThirdOperation(Rank(0));
}
TEST(GenerationTest, WriterThatDiesInAnyOperation_SpoilsNothingAndNobodyWaits) {
  DieInEveryThirdOperation(Rank(1));
}

// Operation 4 of rank 1: the fsync of its first shard, of step 2. The generation ends meanwhile,
// all processes live: the next one does not wait, and when the disk answers, that save still
// counts.
TEST(GenerationTest, SaveOfAGenerationThatIsOver_IsCommittedWhenItsDiskAnswers) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.await_saves = false;
  SlowDisk disk(fs, 4, [] {});
  cluster.file_system_of = [&](Rank rank) -> FileSystem* {
    return rank == Rank(1) ? disk.file_system() : &fs;
  };
  std::atomic<int> late_commits{0};
  cluster.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (rank == Rank(0) && message.has_step_done() && message.step_done().step() == 5) {
      while (!disk.hit()) std::this_thread::yield();
      if (cluster.generation() == Generation(1)) cluster.Announce();
    }
    if (message.has_joined() && cluster.generation() == Generation(2)) {
      EXPECT_EQ(message.joined().start_step(), 0) << "nothing is committed yet";
    }
    if (rank == Rank(0) && message.has_step_done() && message.step_done().step() == 7) {
      disk.LetGo();
    }
    if (message.has_commit_done() && message.commit_done().save().generation() == 1) {
      EXPECT_EQ(message.commit_done().save().step(), 2);
      EXPECT_NE(message.commit_done().manifest(), "");
      ++late_commits;
    }
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_FALSE(outcome.ok());
  ASSERT_TRUE(disk.hit());
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(late_commits, 1);
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

// While one rank still writes, all leave the next saves out, and only the last is waited for.
TEST(GenerationTest, SaveThatTakesLong_LeavesTheNextOnesOutAndTheLastOneWaits) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.await_saves = false;
  SlowDisk disk(fs, 4, [] {});
  cluster.file_system_of = [&](Rank rank) -> FileSystem* {
    return rank == Rank(1) ? disk.file_system() : &fs;
  };
  std::vector<std::string> left_out;
  std::vector<int64_t> committed;
  Mutex mu;
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 3) {
      while (!disk.hit()) std::this_thread::yield();
    }
    MutexLock lock(mu);
    if (message.has_notice()) left_out.push_back(message.notice().text());
    if (message.has_commit_done()) committed.push_back(message.commit_done().save().step());
    if (message.has_step_done() && message.step_done().step() == 8) disk.LetGo();
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(committed, (std::vector<int64_t>{2, 8}));
  ASSERT_EQ(left_out.size(), 2u);
  EXPECT_NE(left_out[0].find("the checkpoint of step 4 is left out"), std::string::npos)
      << left_out[0];
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

// A disk that does not answer for longer than it may: who waits for it says so at the next save
// step, and again when it has been twice as long; the training goes on.
TEST(GenerationTest, WriterThatIsStuck_IsToldAndTrainingGoesOn) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  job.mutable_limits()->mutable_save_timeout()->set_nanos(1);
  WorkerCluster cluster(job, fs);
  cluster.await_saves = false;
  SlowDisk disk(fs, 4, [] {});
  cluster.file_system_of = [&](Rank rank) -> FileSystem* {
    return rank == Rank(1) ? disk.file_system() : &fs;
  };
  cluster.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (rank != Rank(0) || !message.has_step_done()) return;
    if (message.step_done().step() == 3) {
      while (!disk.hit()) std::this_thread::yield();
    }
    if (message.step_done().step() != 7) return;
    disk.LetGo();
    cluster.AwaitSaves();  // the last save would not wait either
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  const std::vector<std::string> warnings = cluster.warnings();
  const std::string of_rank_1 = "NO CHECKPOINT IS WRITTEN: rank 1 has been saving for ";
  EXPECT_TRUE(std::any_of(warnings.begin(), warnings.end(), [&](const std::string& warning) {
    return warning.find(of_rank_1) != std::string::npos;
  }));
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

// The same at the last save, which is waited for: a new process may be able to write it.
TEST(GenerationTest, WriterThatIsStuckInTheLastSave_AsksForANewProcess) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  job.mutable_train()->set_save_interval(0);
  job.mutable_limits()->mutable_save_timeout()->set_nanos(1);
  job.mutable_limits()->mutable_commit_timeout()->set_nanos(1);
  SlowDisk disk(fs, 1, [] {});  // lives longer than who uses it
  WorkerCluster cluster(job, fs);
  cluster.await_saves = false;
  cluster.file_system_of = [&](Rank rank) -> FileSystem* {
    return rank == Rank(1) ? disk.file_system() : &fs;
  };
  const auto outcomes = cluster.Run(2);
  disk.LetGo();
  ASSERT_FALSE(outcomes[1].ok());
  EXPECT_EQ(VerdictOf(outcomes[1].status()), proto::Failed::kReplaceProcess);
  EXPECT_NE(outcomes[1].status().message().find("its own part has been written for longer"),
            std::string::npos)
      << outcomes[1].status();
  ASSERT_FALSE(outcomes[0].ok());
  EXPECT_EQ(VerdictOf(outcomes[0].status()), proto::Failed::kRetry);
}

TEST(GenerationTest, DiskFullWhileSaving_GoesOnWithAWarningAndTheOldCheckpoint) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (!message.has_step_done()) return;
    if (message.step_done().step() == 3) fs.SetCapacity(fs.used_bytes() + 1000);
    if (message.step_done().step() == 4) {  // before the save of step 4: it fails
      EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest().facts.key.step, Step(2));
    }
    if (message.step_done().step() == 5) {
      EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest().facts.key.step, Step(2));
      fs.SetCapacity(int64_t{1} << 40);
    }
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  const std::vector<std::string> warnings = cluster.warnings();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("CHECKPOINT OF STEP 4 COULD NOT BE WRITTEN"), std::string::npos)
      << warnings[0];
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

// What was trained since the last checkpoint is only in memory then.
TEST(GenerationTest, PassingErrorAtTheLastSave_IsWaitedForAndLosesNothing) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  std::atomic<int> waits = 0;
  cluster.on_wait = [&](absl::Duration) { ++waits; };
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 8) {
      fs.FailOperation(0, absl::UnavailableError("cannot write: Input/output error"));
    }
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(waits, 1);
  ASSERT_EQ(cluster.warnings().size(), 1u);
  EXPECT_NE(cluster.warnings()[0].find("of the checkpoint of step 8 could not be written: "),
            std::string::npos);
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

// Of any call of the writers, whose work is done: what is there is theirs, and is no obstacle.
TEST(GenerationTest, LostRepliesAtTheLastSave_AreWaitedForAndLoseNothing) {
  for (int64_t call = 0; call < 6; ++call) {
    FaultyFileSystem fs;
    WorkerCluster cluster(Job(), fs);
    cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
      if (message.has_step_done() && message.step_done().step() == 8) {
        fs.FailCalls(call, 2,
                     {absl::UnavailableError("cannot write: Input/output error"),
                      FaultyFileSystem::Fault::Done::kAll});
      }
    };
    for (const auto& outcome : cluster.Run(2)) {
      EXPECT_TRUE(outcome.ok()) << "call " << call << ": " << outcome.status();
    }
    EXPECT_EQ(NewestHash(fs), UndisturbedHash()) << "call " << call;
  }
}

TEST(GenerationTest, DiskFullAtTheEnd_IsNotSuccess) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 7) {
      fs.SetCapacity(fs.used_bytes() + 1000);
    }
  };
  for (const auto& outcome : cluster.Run(2)) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(VerdictOf(outcome.status()), proto::Failed::kEndJob);
  }
  EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest().facts.key.step, Step(6));
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

TEST(GenerationTest, DamagedNewestCheckpoint_IsNamedAndThePreviousOneUsed) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 7) cluster.Announce();
  };
  cluster.Run(2);
  const auto newest = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  ASSERT_EQ(newest->manifest().facts.key.step, Step(6));
  const std::string shard = newest->manifest().files[1].name;
  fs.FlipBit(std::string(kFolder) + "/" + shard, newest->manifest().files[1].bytes / 2, 3);

  int64_t start = -1;
  cluster.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (rank == Rank(0) && message.has_joined()) start = message.joined().start_step();
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(start, 4);
  ASSERT_FALSE(cluster.warnings().empty());
  EXPECT_NE(cluster.warnings()[0].find(shard), std::string::npos) << cluster.warnings()[0];
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

// Trains to step 7 on three ranks, so that checkpoints of steps 2, 4 and 6 are there.
void TrainToStep7(WorkerCluster& cluster) {
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 7) cluster.Announce();
  };
  cluster.Run(3);
}

// Whoever has the damaged file in its share.
TEST(GenerationTest, DamageThatAnyRankFinds_MakesAllFallBackTogether) {
  for (const size_t file : {0, 1, 2}) {
    FaultyFileSystem fs;
    WorkerCluster cluster(Job(), fs);
    TrainToStep7(cluster);
    const auto newest = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
    ASSERT_EQ(newest->manifest().facts.key.step, Step(6));
    const ManifestFile shard = newest->manifest().files.at(file);
    fs.FlipBit(std::string(kFolder) + "/" + shard.name, shard.bytes - 1, 3);
    Mutex mu;
    std::vector<int64_t> starts;
    cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
      if (!message.has_joined()) return;
      const MutexLock lock(mu);
      starts.push_back(message.joined().start_step());
    };
    for (const auto& outcome : cluster.Run(3)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(starts, (std::vector<int64_t>{4, 4, 4}));
    ASSERT_EQ(cluster.warnings().size(), 2u) << "said once, and the steps that are lost";
    EXPECT_NE(cluster.warnings()[0].find(shard.name + " is damaged"), std::string::npos)
        << cluster.warnings()[0];
    EXPECT_EQ(NewestHash(fs), UndisturbedHash());
  }
}

TEST(GenerationTest, FileThatOneRankCannotRead_IsNoDamageAndNothingBegins) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  TrainToStep7(cluster);
  const auto newest = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  const std::string shard = std::string(kFolder) + "/" + newest->manifest().files[2].name;
  fs.FailReads(shard, absl::UnavailableError("cannot read " + shard + ": Input/output error"));
  std::atomic<int> joined{0};
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_joined()) ++joined;
  };
  for (const auto& outcome : cluster.Run(3)) {
    EXPECT_TRUE(absl::IsUnavailable(outcome.status())) << outcome.status();
    EXPECT_NE(outcome.status().message().find("Input/output error"), std::string::npos)
        << outcome.status();
  }
  EXPECT_EQ(joined, 0);
}

TEST(GenerationTest, LoadStep_IsGoneOnFrom) {
  FaultyFileSystem fs;
  WorkerCluster first(Job("first"), fs);
  TrainToStep7(first);
  proto::JobSpec job = Job("second");
  job.mutable_train()->set_load_dir(kFolder);
  job.mutable_train()->set_save_dir("/other");
  job.mutable_train()->set_load_step(2);
  WorkerCluster second(job, fs);
  std::atomic<int64_t> start{-1};
  second.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (rank == Rank(0) && message.has_joined()) start = message.joined().start_step();
  };
  for (const auto& outcome : second.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(start, 2);
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

TEST(GenerationTest, LoadGoesOnFromAnotherJob_AndRefusesAnotherModel) {
  FaultyFileSystem fs;
  proto::JobSpec first = Job("first");
  first.mutable_train()->set_save_dir("/first");
  WorkerCluster cluster(first, fs);
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 5) cluster.Announce();
  };
  cluster.Run(4);

  proto::JobSpec second = Job("second");
  second.mutable_train()->set_load_dir("/first");
  for (const auto& outcome : WorkerCluster(second, fs).Run(2)) {
    EXPECT_TRUE(outcome.ok()) << outcome.status();
  }
  EXPECT_EQ(NewestHash(fs, "second"), UndisturbedHash());

  proto::JobSpec other = Job("other");
  other.mutable_train()->set_load_dir("/first");
  other.mutable_train()->mutable_model()->set_num_layers(3);
  for (const auto& outcome : WorkerCluster(other, fs).Run(2)) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kFailedPrecondition) << outcome.status();
    EXPECT_EQ(VerdictOf(outcome.status()), proto::Failed::kEndJob);
  }
}

TEST(GenerationTest, NothingToLoad_EndsTheJob) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  job.mutable_train()->set_load_dir("/nowhere");
  for (const auto& outcome : WorkerCluster(job, fs).Run(2)) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kNotFound) << outcome.status();
    EXPECT_EQ(VerdictOf(outcome.status()), proto::Failed::kEndJob);
  }
}

TEST(GenerationTest, OldCheckpoints_StayAsTheJobAsksFor) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();  // saves steps 2, 4, 6 and 8
  job.mutable_train()->set_keep_last(1);
  job.mutable_train()->set_keep_every(4);
  for (const auto& outcome : WorkerCluster(job, fs).Run(2)) {
    EXPECT_TRUE(outcome.ok()) << outcome.status();
  }
  const auto names = ListManifests(fs, kFolder);
  ASSERT_EQ(names->size(), 2u);
  EXPECT_EQ(ParseManifestName(names->at(0))->step, Step(8));
  EXPECT_EQ(ParseManifestName(names->at(1))->step, Step(4));
}

TEST(GenerationTest, Tag_IsGivenToTheLastCheckpointAlone) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  job.mutable_train()->set_tag("best");
  for (const auto& outcome : WorkerCluster(job, fs).Run(2)) {
    EXPECT_TRUE(outcome.ok()) << outcome.status();
  }
  const auto tags = ReadTags(fs, kFolder);
  ASSERT_EQ(tags->size(), 1u);
  EXPECT_EQ(tags->front().name, "best");
  EXPECT_EQ(ParseManifestName(tags->front().manifest)->step, Step(8));
}

// A mount that goes away in the middle of a run and comes back: nothing is written meanwhile, and
// nothing is lost.
TEST(GenerationTest, SaveFolderThatVanishesForAWhile_IsNamedAndNotMadeAgain) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (rank != Rank(0) || !message.has_step_done()) return;
    // Saves are due after steps 2, 4, 6 and at the end.
    if (message.step_done().step() == 1) fs.Hide(kFolder);
    if (message.step_done().step() == 5) fs.ShowAll();
  };
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  std::string all;
  for (const std::string& warning : cluster.warnings()) all += warning + "\n";
  EXPECT_NE(all.find("CHECKPOINT OF STEP 2 COULD NOT BE WRITTEN"), std::string::npos) << all;
  EXPECT_NE(all.find("CHECKPOINT OF STEP 4 COULD NOT BE WRITTEN"), std::string::npos) << all;
  EXPECT_EQ(all.find("CHECKPOINT OF STEP 6"), std::string::npos) << all;
  EXPECT_NE(all.find(std::string("save folder ") + kFolder + " has vanished since this job began"),
            std::string::npos)
      << all;
  const std::vector<std::string> names = fs.List(kFolder).value();
  for (const std::string& name : names) {
    EXPECT_EQ(name.find("step-00000002"), std::string::npos) << name;
    EXPECT_EQ(name.find("step-00000004"), std::string::npos) << name;
  }
  EXPECT_EQ(NewestHash(fs), UndisturbedHash());
}

// Loading moves with every piece that is read, as a rank that is not stuck.
TEST(GenerationTest, LoadingRank_MovesWithEveryPiece) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  std::vector<int64_t> moves;  // until it has joined
  cluster.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (rank == Rank(0) && message.has_joined()) moves.push_back(cluster.beat(rank).moves());
    if (message.has_step_done() && message.step_done().step() == 3) cluster.Announce();
  };
  cluster.Run(1);  // from the seed
  const int64_t before = cluster.beat(Rank(0)).moves();
  cluster.Run(1);  // from a checkpoint
  ASSERT_EQ(moves.size(), 2u);
  const auto newest = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  ASSERT_TRUE(newest.ok()) << newest.status();
  const auto tensors = static_cast<int64_t>(newest->manifest().tensors.size());
  EXPECT_GE(moves[1] - before - moves[0], tensors);
}

// A cluster whose first generation has saved step 6 and is over.
class StorageTest : public ::testing::Test {
 protected:
  explicit StorageTest(bool allow_rewind = false) {
    proto::JobSpec job = Job();
    job.mutable_train()->set_allow_rewind(allow_rewind);
    cluster_ = std::make_unique<WorkerCluster>(job, fs_);
    cluster_->on_message = [this](Rank, const proto::WorkerMessage& message) {
      if (message.has_step_done() && message.step_done().step() == 7) cluster_->Announce();
    };
    cluster_->Run(2);
    cluster_->on_message = [this](Rank rank, const proto::WorkerMessage& message) {
      if (rank == Rank(0) && message.has_joined()) start_ = message.joined().start_step();
    };
    const auto newest = FindNewestCheckpoint(fs_, kFolder, {}, nullptr);
    EXPECT_EQ(newest->manifest().facts.key.step, Step(6));
    newest_ = newest->manifest_name();
    cluster_->floor_step = 6;
    cluster_->floor_manifest = newest_;
    cluster_->on_wait = [this](absl::Duration) { ++waits_; };
  }
  // All ranks go on, to the undisturbed end.
  void ExpectGoesOnFrom(int64_t step) {
    for (const auto& outcome : cluster_->Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(start_, step);
    EXPECT_EQ(NewestHash(fs_), UndisturbedHash());
  }
  // No rank begins; what they say.
  std::string ExpectNothingBegins() {
    std::string message;
    for (const auto& outcome : cluster_->Run(2)) {
      EXPECT_EQ(outcome.status().code(), absl::StatusCode::kUnavailable) << outcome.status();
      EXPECT_EQ(VerdictOf(outcome.status()), proto::Failed::kRetry);
      message = std::string(outcome.status().message());
    }
    EXPECT_EQ(start_, -1);
    return message;
  }

  FaultyFileSystem fs_;
  std::unique_ptr<WorkerCluster> cluster_;
  std::string newest_;
  std::atomic<int64_t> start_ = -1;
  std::atomic<int> waits_ = 0;
};

class RewindTest : public StorageTest {
 protected:
  RewindTest() : StorageTest(/*allow_rewind=*/true) {}
};

using Fault = FaultyFileSystem::Fault;
const absl::Status kEio = ErrnoStatus(EIO, "read", "it, on purpose");

TEST_F(StorageTest, PassingReadErrors_LoseNoStep) {
  fs_.FailCalls(0, 3, {kEio, Fault::Done::kNothing});
  ExpectGoesOnFrom(6);
  EXPECT_GT(waits_, 0);
  EXPECT_TRUE(cluster_->warnings().empty()) << cluster_->warnings()[0];
}

TEST_F(StorageTest, ReadErrorsWhileTheRanksLoad_AreTriedAgainByWhoHasThem) {
  FindOptions own;
  own.job_id = "job";
  const int64_t before = fs_.calls();
  ASSERT_TRUE(FindNewestCheckpoint(fs_, kFolder, own, nullptr).ok());
  // Rank 0 alone looks until it has found one.
  fs_.FailCalls(fs_.calls() - before, 5, {kEio, Fault::Done::kNothing});
  ExpectGoesOnFrom(6);
  EXPECT_GT(waits_, 0);
}

TEST_F(StorageTest, ReadErrorsThatStay_BeginNothingOnAnyRank) {
  fs_.FailReads(std::string(kFolder) + "/" + newest_, kEio);
  const std::string message = ExpectNothingBegins();
  EXPECT_NE(message.find("committed step 6 (" + newest_ + ")"), std::string::npos) << message;
  EXPECT_NE(message.find("on purpose"), std::string::npos) << message;
  EXPECT_NE(message.find("--allow-rewind"), std::string::npos) << message;
}

TEST_F(StorageTest, ShardThatOneRankCannotRead_BeginsNothingAndNamesTheRank) {
  FindOptions own;
  own.job_id = "job";
  const int64_t before = fs_.calls();
  ASSERT_TRUE(FindNewestCheckpoint(fs_, kFolder, own, nullptr).ok());
  fs_.FailCalls(fs_.calls() - before, int64_t{1} << 40, {kEio, Fault::Done::kNothing});
  const std::string message = ExpectNothingBegins();
  EXPECT_NE(message.find(newest_ + ": rank 0: "), std::string::npos) << message;
}

TEST_F(StorageTest, MissingMount_BeginsNothing) {
  fs_.Hide(kFolder);
  const std::string message = ExpectNothingBegins();
  EXPECT_NE(message.find("not even the folder is in /checkpoints"), std::string::npos) << message;
  fs_.ShowAll();
  ExpectGoesOnFrom(6);
}

TEST_F(StorageTest, MountThatComesWhileItIsWaitedFor_LosesNoStep) {
  fs_.Hide(kFolder);
  cluster_->on_wait = [this](absl::Duration) {
    if (++waits_ == 4) fs_.ShowAll();
  };
  ExpectGoesOnFrom(6);
}

TEST_F(RewindTest, ShardThatCanNeverBeRead_IsGivenUpWithAWarning) {
  const auto manifest = ReadManifest(fs_, kFolder, newest_);
  fs_.FailReads(std::string(kFolder) + "/" + manifest->files[1].name, kEio);
  for (const auto& outcome : cluster_->Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(start_, 4);
  std::string all;
  for (const std::string& warning : cluster_->warnings()) all += warning + "\n";
  EXPECT_NE(all.find("2 steps THROWN AWAY"), std::string::npos) << all;
  EXPECT_NE(all.find("cannot be read (--allow-rewind)"), std::string::npos) << all;
  EXPECT_NE(all.find("on purpose"), std::string::npos) << all;
}

TEST_F(RewindTest, MissingCheckpoint_IsGivenUpWithAWarning) {
  fs_.Hide(std::string(kFolder) + "/" + newest_);
  for (const auto& outcome : cluster_->Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(start_, 4);
  ASSERT_FALSE(cluster_->warnings().empty());
  EXPECT_NE(cluster_->warnings()[0].find("2 steps THROWN AWAY"), std::string::npos)
      << cluster_->warnings()[0];
}

}  // namespace
}  // namespace dsrun::worker
