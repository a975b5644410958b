// What generations begin with: checkpoints that are damaged, missing, or cannot be read.

#include "worker/engine/resume.h"

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "common/format/checkpoint_reader.h"
#include "gtest/gtest.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/worker_cluster.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

TEST(GenerationTest, DamagedNewestCheckpoint_IsNamedAndThePreviousOneUsed) {
  FaultyFileSystem fs;
  WorkerCluster cluster(Job(), fs);
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 7) cluster.Announce();
  };
  cluster.Run(2);
  const auto newest = FindNewestCheckpoint(fs, kFolder, {}, nullptr);
  ASSERT_EQ(newest->manifest().facts.key.step, Step(6));
  EXPECT_TRUE(newest->manifest().layout.has_value()) << "what ranks hold is told by a recipe";
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
  // None of them can; the first whose patience ends is named.
  EXPECT_NE(message.find(newest_ + ": rank "), std::string::npos) << message;
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
