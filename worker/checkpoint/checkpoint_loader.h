// Going on from a checkpoint, whatever layout wrote it: every rank reads the whole model and its
// own part of the optimizer's state.

#ifndef DSRUN_WORKER_CHECKPOINT_CHECKPOINT_LOADER_H_
#define DSRUN_WORKER_CHECKPOINT_CHECKPOINT_LOADER_H_

#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/manifest.h"
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
// rank is not stuck. `params` is the whole arena (layout.size() elements); `adam_m` and
// `adam_v` are compact (the owned ranges, concatenated). Padding becomes zero. After an error the
// arenas hold anything. Where training stands is in checkpoint.manifest().facts.
// What is stored as BF16 or F16 becomes F32, exactly.
// Errors: those of CheckCompatible and Checkpoint::ReadRange; FAILED_PRECONDITION: the manifest
// contradicts its model (common/format/model_tensors.h), or a tensor that is wanted is not there:
// trying again, or an older checkpoint, is no remedy.
absl::Status LoadModelAndState(Checkpoint& checkpoint, const LoadExpectation& expectation,
                               const FlatLayout& layout, std::span<const Range> owned,
                               float* params, float* adam_m, float* adam_v,
                               const std::function<void()>& moved = {});

// The values of kSumExponents; empty: the checkpoint is older than exact sums. Errors: those of
// Checkpoint::ReadRange; FAILED_PRECONDITION: it is no list.
absl::StatusOr<std::vector<float>> LoadSumExponents(Checkpoint& checkpoint);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_CHECKPOINT_LOADER_H_
