// What a run that loads a checkpoint has otherwise than the run that wrote it, as far as that can
// be known before any process starts. The workers compare again, with the whole fingerprint.
// Pure; any thread.

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_

#include <string>

#include "common/format/manifest.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

// Lists of "seed 7 there, 9 here", joined by ", "; empty: no difference.
struct CheckpointDifferences {
  std::string model;  // loading is impossible
  std::string curve;  // loading is possible, but the curve is another one from there on
};

// `facts` of the checkpoint against the resolved `train`.
CheckpointDifferences CompareWithCheckpoint(const ManifestFacts& facts,
                                            const proto::TrainSpec& train);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFFERENCES_H_
