#include "tests/worker/engine/small_job.h"

#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"

namespace dsrun::worker {

proto::JobSpec Job(const std::string& id) {
  proto::JobSpec job;
  job.set_job_id(id);
  *job.mutable_train() = TinySpec(/*micro_batches=*/4);
  job.mutable_train()->set_train_iters(8);
  job.mutable_train()->set_save_interval(2);
  job.mutable_train()->set_save_dir(kFolder);
  job.mutable_limits()->mutable_join_timeout()->set_seconds(30);
  job.mutable_limits()->mutable_collective_timeout()->set_seconds(30);
  return job;
}

std::string NewestHash(FaultyFileSystem& fs, const std::string& job_id) {
  FindOptions options;
  options.job_id = job_id;
  absl::StatusOr<Checkpoint> checkpoint = FindNewestCheckpoint(fs, kFolder, options, nullptr);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *ContentHash(*checkpoint) : "";
}

const std::string& UndisturbedHash() {
  static const std::string* const hash = new std::string(UndisturbedHash(Job()));
  return *hash;
}

std::string UndisturbedHash(const proto::JobSpec& job) {
  FaultyFileSystem fs;
  WorkerCluster cluster(job, fs);
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  return NewestHash(fs, job.job_id());
}

std::string InterruptedHash(FaultyFileSystem& fs, const proto::JobSpec& job) {
  WorkerCluster cluster(job, fs);
  cluster.on_message = [&](Rank, const proto::WorkerMessage& message) {
    if (message.has_step_done() && message.step_done().step() == 5) cluster.Announce();
  };
  cluster.Run(3);
  cluster.on_message = nullptr;
  for (const auto& outcome : cluster.Run(2)) EXPECT_TRUE(outcome.ok()) << outcome.status();
  return NewestHash(fs, job.job_id());
}

}  // namespace dsrun::worker
