// Workers as threads around one pretended coordinator: the real RunGeneration, the real session
// state, the real ledger of saves, in-process communicators, a file system in memory. What survives
// a generation in a worker process survives it here: the worker of a rank keeps its SaveWriter,
// which writes on.

#ifndef DSRUN_TESTS_WORKER_ENGINE_WORKER_CLUSTER_H_
#define DSRUN_TESTS_WORKER_ENGINE_WORKER_CLUSTER_H_

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"
#include "proto/job.pb.h"
#include "proto/worker.pb.h"
#include "tests/fakes/faulty_file_system.h"
#include "worker/comm/core/communicator.h"
#include "worker/engine/engine_factory.h"
#include "worker/engine/progress.h"

namespace dsrun::worker {

class WorkerCluster {
 public:
  // `job` with TrainSpec. The folder of its checkpoints is in `file_system`.
  WorkerCluster(proto::JobSpec job, FileSystem& file_system);
  ~WorkerCluster();

  // Called for every message of a worker, from its thread; may call Announce and RequestStop.
  std::function<void(Rank rank, const proto::WorkerMessage& message)> on_message;

  // Instead of every wait for the storage, from the rank's thread; no time passes.
  std::function<void(absl::Duration)> on_wait;

  // Of the next plans: what the coordinator knows to be committed.
  int64_t floor_step = 0;
  std::string floor_manifest;

  // Asked before every sample that a rank reads, from its thread. It may block.
  std::function<void(Rank rank)> before_sample;
  // Changes the targets of a sample after they were read.
  std::function<void(int64_t index, std::span<int32_t> targets)> adjust_sample;
  // Each may be left out; all are called by the rank's own thread. The engine before its
  // generation; the communicator when it is built; the outcome as soon as it is there, also while
  // others run.
  std::function<void(Rank rank, Engine& engine)> adjust_engine;
  // Before it is announced.
  std::function<void(proto::GenerationPlan& plan)> adjust_plan;
  std::function<std::unique_ptr<Communicator>(Rank rank, std::unique_ptr<Communicator> inner)>
      wrap_communicator;
  std::function<void(Rank rank, const absl::Status& status)> on_outcome;
  // What the beat of `rank` says, in a generation that runs.
  proto::Beat beat(Rank rank) const { return progress_[static_cast<size_t>(rank.value())].Get(); }

  // Announces a newer, empty plan: whoever runs is superseded.
  void Announce();
  void RequestStop();

  // One generation of `width` workers, each in a thread; their outcomes by rank.
  std::vector<absl::StatusOr<proto::Finished>> Run(int width);

  // The file system of the writer of the next process of `rank`; empty: that of all.
  std::function<FileSystem*(Rank rank)> file_system_of;

  // Whether rank 0 reports a step only when all saves before it are through, so that a test knows
  // what is on the disk. False: steps and saves go on beside one another, as in a real job.
  bool await_saves = true;
  // Until no writer has anything to do.
  void AwaitSaves();

  // The process of `rank` dies: between two generations. Its writer ends with the file operation it
  // is in; what it still says is not heard.
  void Kill(Rank rank);

  // Until the writers of those that were killed have ended.
  void AwaitDead();

  Generation generation() const { return Generation(generation_); }
  std::vector<std::string> warnings();

  struct Hub;
  struct Worker;
  struct Coordinator;

 private:
  friend struct Coordinator;
  std::unique_ptr<Worker> Start(Rank rank);

  const proto::JobSpec job_;
  FileSystem& file_system_;
  int64_t generation_ = 0;
  uint64_t born_ = 0;              // worker processes so far
  std::deque<Progress> progress_;  // by rank; grows before threads run
  std::shared_ptr<Hub> hub_;       // of the newest generation
  // Outlives the writers, which speak to it.
  std::unique_ptr<Coordinator> coordinator_;
  std::vector<std::unique_ptr<Worker>> dead_;     // whose writers may still be in an operation
  std::vector<std::unique_ptr<Worker>> workers_;  // by rank; null: to be started
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_ENGINE_WORKER_CLUSTER_H_
