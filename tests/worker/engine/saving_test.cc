// Saves behind the training, by whole generations over a disk that is slow, full, or fails.

#include "worker/engine/saving.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/tags.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/fakes/stopping_file_system.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/worker_cluster.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

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

// Rank 1 saves to `disk`, the others to `fs`, and steps go on meanwhile.
void GiveToRankOne(SlowDisk& disk, FaultyFileSystem& fs, WorkerCluster& cluster) {
  cluster.await_saves = false;
  cluster.file_system_of = [&](Rank rank) -> FileSystem* {
    return rank == Rank(1) ? disk.file_system() : &fs;
  };
}

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
void DieInManyOperations(Rank victim) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int64_t kEvery = 7;  // ten times as slow
#else
  constexpr int64_t kEvery = 3;
#endif
  proto::JobSpec job = Job();
  job.mutable_train()->set_train_iters(4);
  const std::string undisturbed = UndisturbedHash(job);
  int hits = 0;
  int64_t operation = 0;
  for (bool hit = true; hit; operation += kEvery) {
    SCOPED_TRACE(testing::Message() << "operation " << operation);
    FaultyFileSystem fs;
    WorkerCluster cluster(job, fs);
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
  EXPECT_GT(hits, 2);
}

TEST(GenerationTest, CommitterThatDiesInAnyOperation_SpoilsNothingAndNobodyWaits) {
  DieInManyOperations(Rank(0));
}
TEST(GenerationTest, WriterThatDiesInAnyOperation_SpoilsNothingAndNobodyWaits) {
  DieInManyOperations(Rank(1));
}

// Operation 4 of rank 1: the fsync of its first shard, of step 2. The generation ends meanwhile,
// all processes live: the next one does not wait, and when the disk answers, that save still
// counts.
TEST(GenerationTest, SaveOfAGenerationThatIsOver_IsCommittedWhenItsDiskAnswers) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  SlowDisk disk(fs, 4, [] {});
  GiveToRankOne(disk, fs, cluster);
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
  SlowDisk disk(fs, 4, [] {});
  GiveToRankOne(disk, fs, cluster);
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
  SlowDisk disk(fs, 4, [] {});
  GiveToRankOne(disk, fs, cluster);
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
  GiveToRankOne(disk, fs, cluster);
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

}  // namespace
}  // namespace dsrun::worker
