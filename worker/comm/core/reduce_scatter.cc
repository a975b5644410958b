#include "worker/comm/core/reduce_scatter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

int64_t SizeOf(const std::vector<Range>& ranges) {
  int64_t elements = 0;
  for (const Range& range : ranges) elements += range.size();
  return elements;
}

int64_t LargestOf(const Owners& owners) {
  int64_t most = 0;
  for (const std::vector<Range>& ranges : owners) most = std::max(most, SizeOf(ranges));
  return most;
}

// One reduction on one rank: exchanges are put together part by part, then made, then what came is
// added.
template <typename T>
class Reduction {
 public:
  Reduction(Communicator& comm, const Owners& owners, T* sums, std::span<T> scratch,
            const AddSumsFn<T>& add, const std::string& what)
      : comm_(comm), owners_(owners), sums_(sums), scratch_(scratch), add_(add), what_(what) {}

  // The part of `owner` goes to `peer`.
  void Send(int peer, int owner) {
    for (const Range& range : owners_[static_cast<size_t>(owner)]) {
      sends_.push_back({peer, sums_ + range.begin, Bytes(range)});
    }
  }
  // The part of `owner` comes from `peer`, to be added.
  void Receive(int peer, int owner) {
    for (const Range& range : owners_[static_cast<size_t>(owner)]) {
      T* const at = scratch_.data() + used_;
      used_ += range.size();
      receives_.push_back({peer, at, Bytes(range)});
      additions_.push_back({range, at});
    }
  }
  // The same, in its place: nothing is added.
  void ReceiveWhole(int peer, int owner) {
    for (const Range& range : owners_[static_cast<size_t>(owner)]) {
      receives_.push_back({peer, sums_ + range.begin, Bytes(range)});
    }
  }

  absl::Status Exchange() {
    RETURN_IF_ERROR(comm_.Exchange(sends_, receives_, what_));
    for (const Addition& addition : additions_) {
      add_(addition.range.size(), addition.from, sums_ + addition.range.begin);
    }
    sends_.clear();
    receives_.clear();
    additions_.clear();
    used_ = 0;
    return absl::OkStatus();
  }

  int size() const { return comm_.size(); }
  int rank() const { return comm_.rank(); }

 private:
  struct Addition {
    Range range;
    const T* from;
  };
  static size_t Bytes(Range range) { return static_cast<size_t>(range.size()) * sizeof(T); }

  Communicator& comm_;
  const Owners& owners_;
  T* const sums_;
  const std::span<T> scratch_;
  const AddSumsFn<T>& add_;
  const std::string& what_;
  std::vector<SendOp> sends_;
  std::vector<RecvOp> receives_;
  std::vector<Addition> additions_;
  int64_t used_ = 0;  // of scratch
};

template <typename T>
absl::Status Direct(Reduction<T>& reduction) {
  const int me = reduction.rank();
  for (int peer = 0; peer < reduction.size(); ++peer) {
    if (peer == me) continue;
    reduction.Send(peer, peer);
    reduction.Receive(peer, me);
  }
  return reduction.Exchange();
}

// In round t rank r passes on the part of rank r - t - 1, to which r - t - 2 has added last; after
// N - 1 rounds its own part has been round.
template <typename T>
absl::Status Ring(Reduction<T>& reduction) {
  const int size = reduction.size();
  const int me = reduction.rank();
  for (int round = 0; round + 1 < size; ++round) {
    reduction.Send((me + 1) % size, (me - round - 1 + size) % size);
    reduction.Receive((me + size - 1) % size, (me - round - 2 + 2 * size) % size);
    RETURN_IF_ERROR(reduction.Exchange());
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status Tree(Reduction<T>& reduction) {
  const int size = reduction.size();
  const int me = reduction.rank();
  for (int distance = 1; distance < size; distance *= 2) {
    const int place = me % (2 * distance);
    if (place != 0 && place != distance) continue;  // has folded already
    if (place == 0 && me + distance >= size) continue;
    for (int owner = 0; owner < size; ++owner) {
      if (place == 0) {
        reduction.Receive(me + distance, owner);
      } else {
        reduction.Send(me - distance, owner);
      }
    }
    RETURN_IF_ERROR(reduction.Exchange());
  }
  if (me != 0) {
    reduction.ReceiveWhole(0, me);
  } else {
    for (int owner = 1; owner < size; ++owner) reduction.Send(owner, owner);
  }
  return reduction.Exchange();
}

// Who gathers the part of an owner on a node: whoever has the owner's place there.
struct Nodes {
  int size;
  int node_size;

  int First(int rank) const { return rank / node_size * node_size; }
  int End(int rank) const { return std::min(First(rank) + node_size, size); }
  int Collector(int node_first, int owner) const {
    return node_first + owner % node_size % (End(node_first) - node_first);
  }
};

template <typename T>
absl::Status TwoLevel(Reduction<T>& reduction, int node_size) {
  const int me = reduction.rank();
  const Nodes nodes{reduction.size(), node_size};
  const int first = nodes.First(me);
  for (int peer = first; peer < nodes.End(me); ++peer) {
    if (peer == me) continue;
    for (int owner = 0; owner < nodes.size; ++owner) {
      const int collector = nodes.Collector(first, owner);
      if (collector == peer) reduction.Send(peer, owner);
      if (collector == me) reduction.Receive(peer, owner);
    }
  }
  RETURN_IF_ERROR(reduction.Exchange());
  // On its own node every owner is its collector.
  for (int owner = 0; owner < nodes.size; ++owner) {
    if (owner != me && nodes.Collector(first, owner) == me) reduction.Send(owner, owner);
  }
  for (int node = 0; node < nodes.size; node += node_size) {
    const int collector = nodes.Collector(node, me);
    if (collector != me) reduction.Receive(collector, me);
  }
  return reduction.Exchange();
}

absl::Status CheckArguments(const Communicator& comm, const ReduceRoute& route,
                            const Owners& owners, size_t scratch, const std::string& what) {
  if (static_cast<int>(owners.size()) != comm.size()) {
    return absl::InvalidArgumentError(absl::StrCat("'", what, "': the owner map is for ",
                                                   owners.size(), " ranks, the communicator has ",
                                                   comm.size()));
  }
  if (route.node_size < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", what, "': expected at least 1 rank on a node, got ", route.node_size));
  }
  const int64_t needed = ReduceScratchElements(route, owners, comm.rank());
  if (static_cast<int64_t>(scratch) < needed) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", what, "' needs ", needed, " elements of scratch on rank ", comm.rank(),
                     " but was given ", scratch, "; size it with ReduceScratchElements"));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t ReduceScratchElements(const ReduceRoute& route, const Owners& owners, int rank) {
  const auto size = static_cast<int>(owners.size());
  if (size == 1) return 0;
  const int64_t own = SizeOf(owners[static_cast<size_t>(rank)]);
  switch (route.way) {
    case ReduceWay::kDirect:
      return own * (size - 1);
    case ReduceWay::kRing:
      return LargestOf(owners);
    case ReduceWay::kTree: {
      int64_t all = 0;
      for (const std::vector<Range>& ranges : owners) all += SizeOf(ranges);
      return all;
    }
    case ReduceWay::kTwoLevel: {
      const Nodes nodes{size, route.node_size};
      const int first = nodes.First(rank);
      int64_t collected = 0;
      for (int owner = 0; owner < size; ++owner) {
        if (nodes.Collector(first, owner) == rank) {
          collected += SizeOf(owners[static_cast<size_t>(owner)]);
        }
      }
      const int node_count = (size + route.node_size - 1) / route.node_size;
      return std::max(collected * (nodes.End(rank) - first - 1), own * (node_count - 1));
    }
  }
  return 0;
}

template <typename T>
absl::Status ReduceScatterSums(Communicator& comm, const ReduceRoute& route, const Owners& owners,
                               T* sums, std::span<T> scratch, const AddSumsFn<T>& add,
                               const std::string& what) {
  RETURN_IF_ERROR(CheckArguments(comm, route, owners, scratch.size(), what));
  if (comm.size() == 1) return absl::OkStatus();
  Reduction<T> reduction(comm, owners, sums, scratch, add, what);
  switch (route.way) {
    case ReduceWay::kDirect:
      return Direct(reduction);
    case ReduceWay::kRing:
      return Ring(reduction);
    case ReduceWay::kTree:
      return Tree(reduction);
    case ReduceWay::kTwoLevel:
      return TwoLevel(reduction, route.node_size);
  }
  return absl::OkStatus();
}

template absl::Status ReduceScatterSums(Communicator&, const ReduceRoute&, const Owners&, uint64_t*,
                                        std::span<uint64_t>, const AddSumsFn<uint64_t>&,
                                        const std::string&);
template absl::Status ReduceScatterSums(Communicator&, const ReduceRoute&, const Owners&, float*,
                                        std::span<float>, const AddSumsFn<float>&,
                                        const std::string&);

}  // namespace dsrun::worker
