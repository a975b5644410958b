// Deadlines: how long a rank of one generation may take, by class of operation
// (common/base/operation_class.h), in two measures:
//
//   Exchange(class)   for the communicator: how long one exchange may last. Who has less to do
//   waits
//                     for who has more, so in training it grows with the steps.
//   Move(class)       for the beat: how long the engine may take from one sign of progress to the
//                     next, before its agent takes it to hang.
//
// Where ranks wait for a disk, Exchange is longer than Move: the rank that hangs is found by its
// own agent, which knows what it hangs in, before its peers give up waiting for it.
//
// A step's limit is max(--collective-timeout, 10 x median of the last steps). Before the first step
// it comes from a measured warm-up (Trainer::EstimateStep), kFirstStepFactor times, at most
// --first-step-timeout; until that is known, it is --first-step-timeout. Nothing overflows: an
// absl::Duration saturates.
//
// Threads: none of its own; the caller serialises.

#ifndef DSRUN_WORKER_ENGINE_DEADLINES_H_
#define DSRUN_WORKER_ENGINE_DEADLINES_H_

#include <cstddef>
#include <deque>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/operation_class.h"
#include "proto/job.pb.h"

namespace dsrun::worker {

class Deadlines {
 public:
  static constexpr int kSteps = 10;
  static constexpr size_t kRemembered = 31;
  // The warm-up times products of matrices, the fastest part of a step, while nothing else disturbs
  // the caches; a first step touches all memory for the first time.
  static constexpr int kFirstStepFactor = 30;

  // A limit that is not set has the default of proto/job.proto.
  explicit Deadlines(const proto::Limits& limits);

  // What a step of the rank with the most to do is expected to take.
  void StepEstimated(absl::Duration step) { estimated_ = step; }
  // What a step took.
  void StepTook(absl::Duration step);

  // kStep once a step was made in this generation, else kFirstStep.
  OperationClass NextStep() const {
    return steps_.empty() ? OperationClass::kFirstStep : OperationClass::kStep;
  }
  absl::Duration Exchange(OperationClass operation) const;
  absl::Duration Move(OperationClass operation) const;
  // Whether a whole step is expected to take longer than ranks wait for each other in the first
  // one: then those with less to do may give up in vain.
  bool FirstStepMayNotFit() const { return estimated_.has_value() && *estimated_ > first_step_; }
  absl::Duration first_step_timeout() const { return first_step_; }

  // DEADLINE_EXCEEDED gets the flag that sets the limit added to its text; any other status is
  // returned as it is.
  static absl::Status NameTheLimit(absl::Status status, OperationClass operation);

 private:
  absl::Duration FirstStep() const;
  absl::Duration Steps() const;

  absl::Duration collective_, join_, first_step_, initialize_, load_, save_, commit_, prune_,
      evaluation_;
  std::optional<absl::Duration> estimated_;
  std::deque<absl::Duration> steps_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_DEADLINES_H_
