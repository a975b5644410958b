// What a run that loads a checkpoint has otherwise than the run that wrote it, as far as that can
// be known before any process starts. The workers compare again, with the whole fingerprint.
// Pure; any thread.

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_

#include <string>

#include "common/format/manifest.h"
#include "common/format/run_differences.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

// `facts` of the checkpoint against the resolved `train`. `corpus_sha256` of the text that was
// given; empty: not known, and not compared. Of the numerics fingerprint what the launcher knows
// without the kernels: instruction set of the matrix library, which follows from isa_cap, how sums
// are made, and version of the kernels.
RunDifferences CompareWithCheckpoint(const ManifestFacts& facts, const proto::TrainSpec& train,
                                     const std::string& corpus_sha256);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_
