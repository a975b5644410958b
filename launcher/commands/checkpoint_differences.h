// What a run that loads a checkpoint has otherwise than the run that wrote it, as far as that can
// be known before any process starts. The workers compare again, with the whole fingerprint.
// Pure; any thread.

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_

#include <string>

#include "common/format/manifest.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

// The --isa-cap that a run was trained under, from the name of the worker's matrix library,
// "oneDNN 3.7.1 avx2; tiles ..." (worker/device/cpu/cpu_matmul.h, MatrixLibrary). Empty: written
// otherwise, so only a worker can judge it.
std::string IsaCapOfCheckpoint(const ManifestFacts& facts);

// Lists of "seed 7 there, 9 here", joined by ", "; empty: no difference.
struct CheckpointDifferences {
  std::string model;  // loading is impossible
  std::string curve;  // loading is possible, but the curve is another one from there on
};

// `facts` of the checkpoint against the resolved `train`. `corpus_sha256` of the text that was
// given; empty: not known, and not compared. Of the numerics fingerprint only the instruction set
// of the matrix library, which follows from isa_cap, and the version of the kernels.
CheckpointDifferences CompareWithCheckpoint(const ManifestFacts& facts,
                                            const proto::TrainSpec& train,
                                            const std::string& corpus_sha256);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_
