// What a run that goes on from a checkpoint has otherwise than the run that wrote it: the one
// comparison, for the launcher (before anything starts), for every rank (before it reads), and for
// two checkpoints. Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_RUN_DIFFERENCES_H_
#define DSRUN_COMMON_FORMAT_RUN_DIFFERENCES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/differences.h"
#include "common/format/manifest.h"
#include "common/model/model_spec.h"
#include "common/numerics/fingerprint.h"

namespace dsrun {

struct RunDifferences {
  std::vector<Difference> model;  // loading is impossible
  std::vector<Difference> curve;  // loading is possible, but the curve is another one from there on
};

// `theirs`: the checkpoint's. Names are those of the flags, without dashes in front, where there is
// a flag. The preset's name does not count, its shape does; a text is compared if both sides know
// theirs; of the fingerprint what `known` says (fingerprint.h).
RunDifferences CompareRuns(const ManifestFacts& theirs, const ModelSpec& model,
                           const BatchFacts& batch, const NumericsFingerprint& fingerprint,
                           OurFields known);

// Errors: FAILED_PRECONDITION: the checkpoint holds the state of another optimizer, or of the same
// one with other slots: which, and what this run has.
absl::Status CheckOptimizer(const OptimizerFacts& theirs, const std::string& name,
                            const std::vector<std::string>& slots);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_RUN_DIFFERENCES_H_
