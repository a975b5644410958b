// Resume: how the ranks of one generation agree on a checkpoint and load it, together: all go on
// from it, or none begins.
//
// What cannot be read is tried again for a while, by the rank that cannot read it; the others wait
// in short exchanges, so that no deadline of theirs passes meanwhile. In the end the generation is
// over with UNAVAILABLE, and nothing has begun: an error of the storage never means that there is
// nothing (worker/checkpoint/find_checkpoint.h).
//
// Threads: the communicator's owner; every rank makes the same calls in the same order.

#ifndef DSRUN_WORKER_ENGINE_RESUME_H_
#define DSRUN_WORKER_ENGINE_RESUME_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/file_system.h"
#include "common/base/operation_class.h"
#include "common/base/patience.h"
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
  NumericsFingerprint kernels_fingerprint;
  std::string corpus_sha256;
  int64_t floor_step = 0;  // GenerationPlan, as the next
  std::string floor_manifest;
  bool restart = false;  // not the first generation of the job
  const Clock* clock;
  Patience::Wait wait;                                   // false: the generation is over
  std::function<void(const std::string& warning)> warn;  // the operator
  std::function<void()> moved;                           // a long reading goes on
  // An operation of another class begins: limits and beat follow (deadlines.h).
  std::function<void(OperationClass operation)> enter;
};

// What training goes on from.
struct Resumed {
  std::string folder;
  std::string manifest;  // "": the initial state
};

// Loads what FindCheckpoint finds on rank 0 and all ranks together have verified, each its share of
// the files; what one of them proves to be damaged is passed over by all. Without any, initialises
// from the seed. The same outcome on all ranks; a rank's error is named by its rank. Errors: the
// communicator's; those of FindCheckpoint; FAILED_PRECONDITION: a checkpoint of another model or
// curve; DATA_LOSS: a rank reads other bytes than were verified, twice; UNAVAILABLE: a rank cannot
// read what rank 0 can.
absl::StatusOr<Resumed> Resume(const ResumeSetup& setup);

// How long a generation tries again to read a checkpoint: a third of what all of its joining may
// take, for the finding and for the loading each.
Patience::Limits ReadPatience(const proto::Limits& limits);

// What this run is, for comparing with a checkpoint and for writing one.
LoadExpectation ExpectationOf(const proto::TrainSpec& spec,
                              const NumericsFingerprint& kernels_fingerprint,
                              const std::string& corpus_sha256);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_RESUME_H_
