// What a checkpoint contains, as one number: SHA-256 over all logical tensors (name, type, shape,
// bytes; in name order) and the counters. Two checkpoints have the same hash exactly if training
// went on from them bit for bit alike. Generation, job, width, wall time, paths and the division
// into files have no part in it. docs/checkpoint_format.md has the exact bytes.

#ifndef DSRUN_COMMON_FORMAT_CONTENT_HASH_H_
#define DSRUN_COMMON_FORMAT_CONTENT_HASH_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/format/checkpoint_reader.h"

namespace dsrun {

// 64 lower-case hex digits. Errors: those of Checkpoint::ReadRange.
absl::StatusOr<std::string> ContentHash(Checkpoint& checkpoint);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_CONTENT_HASH_H_
