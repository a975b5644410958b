// Resume: how the ranks of one generation agree on a checkpoint and load it.
//
// Threads: the communicator's owner; every rank makes the same calls in the same order.

#ifndef DSRUN_WORKER_ENGINE_RESUME_H_
#define DSRUN_WORKER_ENGINE_RESUME_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "proto/job.pb.h"
#include "worker/checkpoint/checkpoint_loader.h"
#include "worker/comm/core/communicator.h"
#include "worker/engine/trainer.h"

namespace dsrun::worker {

struct ResumeSetup {
  FileSystem* file_system;
  const proto::JobSpec* job;
  Communicator* communicator;
  Trainer* trainer;
  std::string kernels_fingerprint;
  std::string corpus_sha256;
  std::function<void(const std::string& warning)> warn;  // the operator
};

// What training goes on from.
struct Resumed {
  std::string folder;
  std::string manifest;  // "": the initial state
};

// Loads the newest whole checkpoint of this job, else that of --load, else initialises from the
// seed. Damaged ones are warned about and passed over.
// Errors: the communicator's; NOT_FOUND: nothing to load in --load; FAILED_PRECONDITION: a
// checkpoint of another model or curve; DATA_LOSS; those of FileSystem.
absl::StatusOr<Resumed> Resume(const ResumeSetup& setup);

// What this run is, for comparing with a checkpoint and for writing one.
LoadExpectation ExpectationOf(const proto::TrainSpec& spec, const std::string& kernels_fingerprint,
                              const std::string& corpus_sha256);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_RESUME_H_
