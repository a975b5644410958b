// Checkpointing: how the ranks of one generation write checkpoints; resume.h is how they go on from
// one.
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

#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"
#include "common/base/operation_class.h"
#include "common/base/patience.h"
#include "common/format/manifest.h"
#include "proto/job.pb.h"
#include "worker/comm/core/communicator.h"
#include "worker/engine/resume.h"
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
    NumericsFingerprint kernels_fingerprint;
    std::string corpus_sha256;
    Patience::Wait wait;                                   // false: the generation is over
    std::function<void(const std::string& warning)> warn;  // the operator
    // Rank 0, as soon as a manifest is committed: whoever dies after that, it counts.
    std::function<void(const std::string& manifest)> committed;
    // An operation of another class begins: limits and beat follow (deadlines.h).
    std::function<void(OperationClass operation)> enter;
  };

  explicit Checkpointing(Setup setup);

  // The state is what Resume has loaded.
  void WentOnFrom(const Resumed& resumed);

  // Writes one of the present state, unless the newest is of this very step. Returns the newest
  // manifest's name; `saved` tells whether it is of this step now. Errors: the communicator's only.
  struct Saved {
    std::string manifest;   // newest of this job; "" if there never was one
    bool fresh = false;     // this call committed it
    bool current = false;   // it is of the present step
    absl::Status why = {};  // if it is not: the same on all ranks
  };
  absl::StatusOr<Saved> Save();

 private:
  void Prune();
  ManifestFacts Facts() const;

  const Setup setup_;
  std::string newest_;
  int64_t newest_step_ = -1;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_CHECKPOINTING_H_
