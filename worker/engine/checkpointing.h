// Checkpointing: how the ranks of one generation agree on a checkpoint, load it, and write new
// ones.
//
// A save that fails (a full disk) is not the end of the run: every rank learns of it in the same
// call, nothing is committed, the previous checkpoint stays the newest, a warning goes out and
// training goes on.
//
// Threads: the communicator's owner; every rank makes the same calls in the same order.

#ifndef DSRUN_WORKER_ENGINE_CHECKPOINTING_H_
#define DSRUN_WORKER_ENGINE_CHECKPOINTING_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"
#include "common/base/operation_class.h"
#include "common/format/manifest.h"
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
    Generation generation;
    Incarnation incarnation;
    std::string kernels_fingerprint;
    std::string corpus_sha256;
    std::function<void(const std::string& warning)> warn;  // the operator
    // An operation of another class begins: limits and beat follow (deadlines.h).
    std::function<void(OperationClass operation)> enter;
  };

  explicit Checkpointing(Setup setup);

  // Loads the newest whole checkpoint of this job, else that of --load, else initialises from the
  // seed. Damaged ones are warned about and passed over. Returns the manifest's name, or "".
  // Errors: the communicator's; NOT_FOUND: nothing to load in --load; FAILED_PRECONDITION: a
  // checkpoint of another model or curve; DATA_LOSS; those of FileSystem.
  absl::StatusOr<std::string> Resume();

  // Writes one of the present state, unless the newest is of this very step. Returns the newest
  // manifest's name; `saved` tells whether it is of this step now. Errors: the communicator's only.
  struct Saved {
    std::string manifest;  // newest of this job; "" if there never was one
    bool fresh = false;    // this call committed it
    bool current = false;  // it is of the present step
  };
  absl::StatusOr<Saved> Save();

 private:
  struct Found {
    std::string folder;
    std::string manifest;  // "": none
  };
  absl::StatusOr<Found> FindOnRankZero();
  absl::StatusOr<Found> AgreeOnCheckpoint();
  absl::Status Load(const Found& found);
  void Prune();
  ManifestFacts Facts() const;
  LoadExpectation Expectation() const;

  const Setup setup_;
  std::string newest_;
  int64_t newest_step_ = -1;
  int64_t warned_step_ = -1;  // the last one whose failed save was told
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_CHECKPOINTING_H_
