// Checkpointing: how the ranks of one generation agree on a checkpoint and load it. Saving is in
// saving.h.
//
// Threads: the communicator's owner; every rank makes the same calls in the same order.

#ifndef DSRUN_WORKER_ENGINE_CHECKPOINTING_H_
#define DSRUN_WORKER_ENGINE_CHECKPOINTING_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "proto/job.pb.h"
#include "worker/checkpoint/checkpoint_loader.h"
#include "worker/comm/core/communicator.h"
#include "worker/engine/trainer.h"

namespace dsrun::worker {

class Checkpointing {
 public:
  struct Setup {
    FileSystem* file_system;
    const proto::JobSpec* job;
    Communicator* communicator;
    Trainer* trainer;
    std::string kernels_fingerprint;
    std::string corpus_sha256;
    std::function<void(const std::string& warning)> warn;  // the operator
  };

  explicit Checkpointing(Setup setup);

  // Loads the newest whole checkpoint of this job, else that of --load, else initialises from the
  // seed. Damaged ones are warned about and passed over. Returns the manifest's name, or "".
  // Errors: the communicator's; NOT_FOUND: nothing to load in --load; FAILED_PRECONDITION: a
  // checkpoint of another model or curve; DATA_LOSS; those of FileSystem.
  absl::StatusOr<std::string> Resume();

  // What Resume has loaded, if it is this job's own; else "".
  const std::string& newest() const { return newest_; }

 private:
  struct Found {
    std::string folder;
    std::string manifest;  // "": none
  };
  absl::StatusOr<Found> FindOnRankZero();
  absl::StatusOr<Found> AgreeOnCheckpoint();
  absl::Status Load(const Found& found);
  LoadExpectation Expectation() const;

  const Setup setup_;
  std::string newest_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_CHECKPOINTING_H_
