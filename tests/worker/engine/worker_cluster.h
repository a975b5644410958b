// Workers as threads around one pretended coordinator: the real RunGeneration, the real session
// state, in-process communicators, a file system in memory. What survives a generation in a worker
// process survives it here.

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
  WorkerCluster(proto::JobSpec job, FaultyFileSystem& file_system);

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

  Generation generation() const { return Generation(generation_); }
  std::vector<std::string> warnings();

  struct Hub;

 private:
  const proto::JobSpec job_;
  FaultyFileSystem& file_system_;
  int64_t generation_ = 0;
  std::shared_ptr<Hub> hub_;
  std::deque<Progress> progress_;  // by rank; grows before threads run
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_ENGINE_WORKER_CLUSTER_H_
