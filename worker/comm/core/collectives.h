// Collectives over Communicator::Exchange. No arithmetic here: sums over ranks are made by
// reduce_scatter.h. All return the communicator's first error. Called by the communicator's owner
// thread; every rank makes the same calls in the same order.

#ifndef DSRUN_WORKER_COMM_CORE_COLLECTIVES_H_
#define DSRUN_WORKER_COMM_CORE_COLLECTIVES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/range.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

// Rank r's bytes, for every r. Sizes may differ and need not be known to the others.
absl::StatusOr<std::vector<std::string>> AllGather(Communicator& comm, const std::string& mine,
                                                   const std::string& what);

// Every rank's `bytes` at `mine`, to block number rank of `all`: size() * bytes. `mine` may stand
// in its own block.
absl::Status AllGatherBlocks(Communicator& comm, const void* mine, size_t bytes, void* all,
                             const std::string& what);

// In place: every rank has its own ranges of `base` filled; afterwards all have all.
// `owned_by_rank`: index = rank; disjoint, the same on all ranks. INVALID_ARGUMENT: not as many as
// there are ranks.
absl::Status AllGatherRanges(Communicator& comm,
                             const std::vector<std::vector<Range>>& owned_by_rank, float* base,
                             const std::string& what);
// The same for elements of another size.
absl::Status AllGatherRanges(Communicator& comm,
                             const std::vector<std::vector<Range>>& owned_by_rank, void* base,
                             int64_t element_bytes, const std::string& what);

// `root`'s bytes.
absl::StatusOr<std::string> Broadcast(Communicator& comm, int root, const std::string& mine,
                                      const std::string& what);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_COLLECTIVES_H_
