// Token ids are checked where they enter the engine, once: the kernels use them as offsets into
// tables and check nothing. Pure.

#ifndef DSRUN_WORKER_DATA_TOKEN_IDS_H_
#define DSRUN_WORKER_DATA_TOKEN_IDS_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace dsrun::worker {

// Tokens are in [0, vocab_size); so are targets, but for those below 0, which are masked.
// Errors: INVALID_ARGUMENT, with the first position that is not so.
absl::Status CheckTokens(std::span<const int32_t> tokens, std::span<const int32_t> targets,
                         int64_t vocab_size);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DATA_TOKEN_IDS_H_
