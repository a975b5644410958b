// Sums over ranks in the fixed tree over the batch (docs/numerics.md, first tree), and the gathers
// that put the parts together again. The result's bits are those of the serial tree, for every
// width: partial sums travel unreduced to the owner of an element, who adds them in the tree's
// order.
//
// Every addition here is between two finished tree nodes; which of the two operands is overwritten
// is chosen for the fewest copies, as IEEE addition commutes to the bit (only the payload of a NaN
// may depend on it).
//
// Threads: the communicator's owner thread. Errors: the communicator's; INVALID_ARGUMENT when
// arguments contradict each other.

#ifndef DSRUN_WORKER_COMM_CORE_CANONICAL_REDUCE_H_
#define DSRUN_WORKER_COMM_CORE_CANONICAL_REDUCE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/plan/canonical_blocks.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

// dst[i] += src[i] for i in [0, n), each by one fp32 addition.
using AddFn = std::function<void(float* dst, const float* src, int64_t n)>;

// How many floats of scratch `rank` needs for one CanonicalReduceScatter in which it owns
// `owned_elements`. `in_place`: the result is one of the rank's own node sums.
int64_t ReduceScratchElements(const BatchPlan& plan, int64_t rank, int64_t owned_elements,
                              bool in_place);

// Sums over the batch. `owned_by_rank[r]`: what rank r owns of this bucket: flat ranges, disjoint,
// the same on all ranks. `node_sums[k]`: base pointer of the gradient space that holds the partial
// sums of tree node plan.RankNodes(rank)[k]. `result`: base pointer of a gradient space; only this
// rank's own ranges are written. It overlaps none of `node_sums`, or is one of them.
// REQUIRES: comm.size() == plan.width(); scratch.size() >= ReduceScratchElements(...).
absl::Status CanonicalReduceScatter(Communicator& comm, const BatchPlan& plan,
                                    const std::vector<std::vector<Range>>& owned_by_rank,
                                    std::span<const float* const> node_sums, float* result,
                                    std::span<float> scratch, const AddFn& add,
                                    const std::string& what);

// In place: every rank has its own ranges of `base` filled; afterwards all have all.
absl::Status AllGatherRanges(Communicator& comm,
                             const std::vector<std::vector<Range>>& owned_by_rank, float* base,
                             const std::string& what);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_CANONICAL_REDUCE_H_
