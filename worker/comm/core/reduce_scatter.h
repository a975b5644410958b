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
// A rank that has a single contribution for each element of a bucket has nothing to add up: it need
// not make integers of it, and sends its floats, half the bytes; who adds makes the integers. They
// are a function of the float, so the totals have the same bits. Floats are sent where nothing of
// others was added before: kDirect, and inside nodes by kTwoLevel. A rank that has nothing sends
// nothing there, and elsewhere what it has got of others. All ranks know of all who has what, so a
// message needs no flag.
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

// Memory for positions of the space that ranges count in, `origin` the first of it.
template <typename T>
struct SumsAt {
  SumsAt(T* d, int64_t o = 0) : data(d), origin(o) {}  // NOLINT: a base pointer is one
  T* At(int64_t position) const { return data + (position - origin); }
  T* data;
  int64_t origin;
};

enum class RankHas {
  kSums,
  kSingle,   // contributions, as floats
  kNothing,  // to add
};
// By rank. Empty: all have sums.
using RanksHave = std::vector<RankHas>;

// How many elements of scratch `rank` needs for one reduction.
int64_t ReduceScratchElements(const ReduceRoute& route, const Owners& owners, int rank,
                              const RanksHave& have = {});

// `sums`: base of the space that the ranges count in; this rank's part of the sums stands in all
// ranges; zeros, where it has nothing. Afterwards the total stands in the rank's own ranges; the
// others are undefined. `have`: of sums or nothing; scratch is that of sums.
// For T uint64_t and float.
template <typename T>
absl::Status ReduceScatterSums(Communicator& comm, const ReduceRoute& route, const Owners& owners,
                               SumsAt<T> sums, std::span<T> scratch, const AddSumsFn<T>& add,
                               const std::string& what, const RanksHave& have = {});

// The same of integers, where ranks may have floats.
struct SingleParts {
  RanksHave have;
  const SumsAt<const float> own;  // read where the rank has a single contribution
  // sums = x as integers where `first`, else sums += x; x and sums are those of `range`.
  std::function<void(Range range, const float* x, bool first, uint64_t* sums)> fix;
  // Called for every range of the rank's own, in order, when its total is there.
  std::function<void(Range range, const uint64_t* total)> total;
};
// `sums`: as above, touched where the rank has sums alone.
absl::Status ReduceScatterSingles(Communicator& comm, const ReduceRoute& route,
                                  const Owners& owners, const SingleParts& parts,
                                  SumsAt<uint64_t> sums, std::span<uint64_t> scratch,
                                  const AddSumsFn<uint64_t>& add, const std::string& what);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_REDUCE_SCATTER_H_
