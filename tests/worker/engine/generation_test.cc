#include "worker/engine/generation.h"

#include <atomic>
#include <functional>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/fakes/stopping_file_system.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"

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
  // Sampling and saving have no limit: nothing of them is left to be waited for.
  EXPECT_FALSE(cluster.beat(Rank(0)).has_patience());
}

// The disk is slow: one operation of one rank's writer takes until it is let go.
class SlowDisk {
 public:
  // `on_slow` is called when that operation begins, from the writer's thread.
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
    return hit_;
  }

 private:
  void Wait() {
    {
      MutexLock lock(mu_);
      hit_ = true;
    }
    on_slow_();
    MutexLock lock(mu_);
    while (!free_) changed_.Wait(mu_);
  }

  Mutex mu_;
  CondVar changed_;
  bool free_ ABSL_GUARDED_BY(mu_) = false;
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
    EXPECT_TRUE(IsFatal(outcome.status()));
  }
  EXPECT_EQ(FindNewestCheckpoint(fs, kFolder, {}, nullptr)->manifest().facts.key.step, Step(6));
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
    EXPECT_TRUE(IsFatal(outcome.status()));
  }
}

TEST(GenerationTest, NothingToLoad_IsFatal) {
  FaultyFileSystem fs;
  proto::JobSpec job = Job();
  job.mutable_train()->set_load_dir("/nowhere");
  for (const auto& outcome : WorkerCluster(job, fs).Run(2)) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kNotFound) << outcome.status();
    EXPECT_TRUE(IsFatal(outcome.status()));
  }
}

}  // namespace
}  // namespace dsrun::worker
