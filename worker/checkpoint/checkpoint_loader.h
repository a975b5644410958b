// Going on from a checkpoint, whatever layout wrote it: every rank reads the whole model, or what
// it stores of it, and its own part of the optimizer's state.

#ifndef DSRUN_WORKER_CHECKPOINT_CHECKPOINT_LOADER_H_
#define DSRUN_WORKER_CHECKPOINT_CHECKPOINT_LOADER_H_

#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/range.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/manifest.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"

namespace dsrun::worker {

// What the run that loads is.
struct LoadExpectation {
  ModelSpec model;
  BatchFacts batch;
  NumericsFingerprint fingerprint;
  // Go on although batch or fingerprint differ: the curve is then no longer that of the first run.
  // Another model is never accepted.
  bool accept_differences = false;
};

// Errors: FAILED_PRECONDITION: another model, or another batch, seed, text or fingerprint that is
// not accepted; the message has a table of every difference (common/format/run_differences.h).
absl::Status CheckCompatible(const ManifestFacts& facts, const LoadExpectation& expectation);

// Reads after CheckCompatible. `moved` (may be empty) is called after every megabyte and piece: the
// rank is not stuck. `params` is the whole arena (layout.size() elements), or where `stored` is not
// null these ranges of it, concatenated, and nothing else is read; `slots`, those of
// `optimizer` in its order, are compact (what of the owned ranges has the slot, concatenated).
// Padding becomes zero. What is stored as BF16 or F16 becomes F32, exactly. A trainable tensor that
// was frozen in the checkpoint (FrozenIn) begins with zeros. After an error the arenas hold
// anything. Where training stands is in checkpoint.manifest().facts. Errors: those of
// CheckCompatible, CheckOptimizer and Checkpoint::ReadRange; FAILED_PRECONDITION: the manifest
// contradicts its model (common/format/model_tensors.h), or a tensor that is wanted is not there:
// trying again, or an older checkpoint, is no remedy.
absl::Status LoadModelAndState(Checkpoint& checkpoint, const LoadExpectation& expectation,
                               const FlatLayout& layout, std::span<const Range> owned,
                               float* params, const OptimizerPlan& optimizer,
                               std::span<float* const> slots,
                               const std::function<void()>& moved = {},
                               const std::vector<Range>* stored = nullptr);

// The values of kSumExponents for the trainable tensors of `layout`, in its order;
// `new_value` for those that were frozen in the checkpoint. Empty: the checkpoint is older than
// exact sums. `tensors`: of the model, in its own order. Errors: those of Checkpoint::ReadRange;
// FAILED_PRECONDITION: it is no list, or not one number for each tensor that was trained.
absl::StatusOr<std::vector<float>> LoadSumExponents(Checkpoint& checkpoint,
                                                    const std::vector<LogicalTensor>& tensors,
                                                    const FlatLayout& layout, float new_value);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_CHECKPOINT_LOADER_H_
