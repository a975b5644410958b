// What a job's recomputation takes and gives, for the table of a dry run.

#ifndef DSRUN_LAUNCHER_COMMANDS_RECOMPUTE_TEXT_H_
#define DSRUN_LAUNCHER_COMMANDS_RECOMPUTE_TEXT_H_

#include <string>

#include "proto/job.pb.h"

namespace dsrun::launcher {

// "12 of 12 layers play forward again: kept activations 13.2 MiB in place of 133.0 MiB, arena ...;
// 30.1 % more arithmetic". Empty: the job computes nothing again. REQUIRES: a resolved spec.
std::string RecomputeText(const proto::TrainSpec& train);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_RECOMPUTE_TEXT_H_
