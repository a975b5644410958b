// Sums over ranks. Those of 64-bit integers have the same bits in whatever order they are added
// (docs/numerics.md): so the way they travel is a choice of speed alone, and each way here gives
// what every other gives. Those of floats depend on way and width (`--sums fast`).
//
//   kDirect     every rank sends each owner its part: one exchange, most messages
//   kRing       N - 1 exchanges with the neighbours, a part each (Patarasuk and Yuan, 2009): least
//               memory
//   kTree       halves of ranks fold onto the others, then the first gives the owners their parts:
//               least messages, for buckets that are small against the latency
//   kTwoLevel   first inside each node, then between ranks of the same place on their nodes: 1 /
//               node_size of the bytes between nodes
//
// Threads: the communicator's owner thread. Errors: the communicator's; INVALID_ARGUMENT when
// arguments contradict each other.

#ifndef DSRUN_WORKER_COMM_CORE_REDUCE_SCATTER_H_
#define DSRUN_WORKER_COMM_CORE_REDUCE_SCATTER_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/range.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

enum class ReduceWay { kDirect, kRing, kTree, kTwoLevel };

// What rank r owns of a bucket; index = rank. Ranges are disjoint, the same on all ranks.
using Owners = std::vector<std::vector<Range>>;

// dst[i] += src[i] for i in [0, n); of integers modulo 2^64.
template <typename T>
using AddSumsFn = std::function<void(int64_t n, const T* src, T* dst)>;

struct ReduceRoute {
  ReduceWay way = ReduceWay::kDirect;
  // kTwoLevel: ranks are node after node, so many on each (fewer on the last).
  int node_size = 1;
};

// How many elements of scratch `rank` needs for one reduction.
int64_t ReduceScratchElements(const ReduceRoute& route, const Owners& owners, int rank);

// `sums`: base of the space that the ranges count in; this rank's part of the sums stands in all
// ranges. Afterwards the total stands in the rank's own ranges; the others are undefined.
// For T uint64_t and float.
template <typename T>
absl::Status ReduceScatterSums(Communicator& comm, const ReduceRoute& route, const Owners& owners,
                               T* sums, std::span<T> scratch, const AddSumsFn<T>& add,
                               const std::string& what);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_REDUCE_SCATTER_H_
