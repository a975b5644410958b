// What helps against an error of the engine: one table from status to verdict (docs/errors.md,
// "What helps"), which the rank tells with its failure (proto/worker.proto, Failed.verdict).
//
//   kRetry            a new generation in this process: a peer is lost, a deadline has passed
//   kReplaceProcess   only a new process: a library is in a state that it did not foresee
//   (INTERNAL,
//                     UNKNOWN), a device is lost
//   kEndJob           nothing: the input is wrong, or there is not enough of something
//
// Pure.

#ifndef DSRUN_WORKER_ENGINE_VERDICT_H_
#define DSRUN_WORKER_ENGINE_VERDICT_H_

#include "absl/status/status.h"
#include "proto/worker.pb.h"

namespace dsrun::worker {

// Of the payload, if there is one, else of the code. REQUIRES: not OK.
proto::Failed::Verdict VerdictOf(const absl::Status& status);

// For whoever knows better than the code says. Survives Annotate and StatusOr. OK stays OK.
absl::Status WithVerdict(absl::Status status, proto::Failed::Verdict verdict);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_VERDICT_H_
