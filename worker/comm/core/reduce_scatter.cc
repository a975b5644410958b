#include "worker/comm/core/reduce_scatter.h"

#include <algorithm>
#include <map>

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

// Elements of T that so many floats take.
template <typename T>
int64_t ElementsOf(int64_t floats) {
  constexpr auto kFloats = static_cast<int64_t>(sizeof(T) / sizeof(float));
  return (floats + kFloats - 1) / kFloats;
}

int64_t FloatsOf(const std::vector<Range>& ranges) {
  int64_t elements = 0;
  for (const Range& range : ranges) elements += ElementsOf<uint64_t>(range.size());
  return elements;
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

// Whether `rank` adds parts of others to its own part of what `owner` owns, before anything of it
// goes on: then it needs it as a sum. What it only sends may be floats.
bool AddsUp(const ReduceRoute& route, int size, int rank, int owner) {
  if (route.way == ReduceWay::kDirect) return rank == owner;
  if (route.way != ReduceWay::kTwoLevel) return true;
  const Nodes nodes{size, route.node_size};
  return nodes.Collector(nodes.First(rank), owner) == rank;
}

bool Has(const RanksHave& have, int rank, RankHas what) {
  return (have.empty() ? RankHas::kSums : have[static_cast<size_t>(rank)]) == what;
}

template <typename T>
using FixFn = std::function<void(Range range, const float* x, bool first, T* sums)>;

// What a rank has before the reduction; `floats` and what follows it is for integers alone.
template <typename T>
struct Parts {
  SumsAt<T> sums;
  RanksHave have = {};
  SumsAt<const float> floats = {nullptr};
  FixFn<T> fix = nullptr;
};

// One reduction on one rank: exchanges are put together part by part, then made, then what came is
// added.
template <typename T>
class Reduction {
 public:
  Reduction(Communicator& comm, const ReduceRoute& route, const Owners& owners,
            const Parts<T>& parts, std::span<T> scratch, const AddSumsFn<T>& add,
            const std::string& what)
      : comm_(comm),
        route_(route),
        owners_(owners),
        parts_(parts),
        scratch_(scratch),
        add_(add),
        what_(what) {
    if (!OwnAreSums()) FixWhatIsAddedTo();
    received_ = fixed_;
  }

  // The part of `owner` goes to `peer`.
  void Send(int peer, int owner) {
    if (HasNothingOf(rank(), owner)) return;
    const bool floats = TravelsAsFloats(rank(), owner);
    for (const Range& range : owners_[static_cast<size_t>(owner)]) {
      if (floats) {
        sends_.push_back({peer, parts_.floats.At(range.begin), Bytes(range, sizeof(float))});
      } else {
        sends_.push_back({peer, SumOf(range), Bytes(range, sizeof(T))});
      }
    }
  }
  // The part of `owner` comes from `peer`, to be added.
  void Receive(int peer, int owner) {
    if (HasNothingOf(peer, owner)) return;
    const bool floats = TravelsAsFloats(peer, owner);
    for (const Range& range : owners_[static_cast<size_t>(owner)]) {
      T* const at = scratch_.data() + received_;
      received_ += floats ? ElementsOf<T>(range.size()) : range.size();
      receives_.push_back({peer, at, Bytes(range, floats ? sizeof(float) : sizeof(T))});
      additions_.push_back({range, at, floats});
    }
  }
  // The same, in its place: nothing is added.
  void ReceiveWhole(int peer, int owner) {
    for (const Range& range : owners_[static_cast<size_t>(owner)]) {
      receives_.push_back({peer, SumOf(range), Bytes(range, sizeof(T))});
    }
  }

  absl::Status Exchange() {
    RETURN_IF_ERROR(comm_.Exchange(sends_, receives_, what_));
    for (const Addition& addition : additions_) {
      T* const sum = SumOf(addition.range);
      if (addition.floats) {
        parts_.fix(addition.range, reinterpret_cast<const float*>(addition.from), false, sum);
      } else {
        add_(addition.range.size(), addition.from, sum);
      }
    }
    sends_.clear();
    receives_.clear();
    additions_.clear();
    received_ = fixed_;
    return absl::OkStatus();
  }

  // Where the rank's sum of a whole range of an owner stands.
  T* SumOf(Range range) const {
    if (OwnAreSums()) return parts_.sums.At(range.begin);
    return fixed_at_.at(range.begin);
  }

  int size() const { return comm_.size(); }
  int rank() const { return comm_.rank(); }

 private:
  struct Addition {
    Range range;
    const T* from;
    bool floats;
  };
  static size_t Bytes(Range range, size_t of_element) {
    return static_cast<size_t>(range.size()) * of_element;
  }
  bool TravelsAsFloats(int from, int owner) const {
    return Has(parts_.have, from, RankHas::kSingle) && !AddsUp(route_, size(), from, owner);
  }
  bool HasNothingOf(int from, int owner) const {
    return Has(parts_.have, from, RankHas::kNothing) && !AddsUp(route_, size(), from, owner);
  }
  bool OwnAreSums() const {
    return parts_.fix == nullptr || Has(parts_.have, rank(), RankHas::kSums);
  }

  // Makes sums, at the start of scratch, of the floats or the nothing to which others will be
  // added.
  void FixWhatIsAddedTo() {
    for (int owner = 0; owner < size(); ++owner) {
      if (!AddsUp(route_, size(), rank(), owner)) continue;
      for (const Range& range : owners_[static_cast<size_t>(owner)]) {
        T* const sums = scratch_.data() + fixed_;
        if (Has(parts_.have, rank(), RankHas::kSingle)) {
          parts_.fix(range, parts_.floats.At(range.begin), true, sums);
        } else {
          std::fill_n(sums, range.size(), T{0});
        }
        fixed_at_[range.begin] = sums;
        fixed_ += range.size();
      }
    }
  }

  Communicator& comm_;
  const ReduceRoute& route_;
  const Owners& owners_;
  const Parts<T>& parts_;
  const std::span<T> scratch_;
  const AddSumsFn<T>& add_;
  const std::string& what_;
  std::map<int64_t, T*> fixed_at_;  // by the begin of the range
  std::vector<SendOp> sends_;
  std::vector<RecvOp> receives_;
  std::vector<Addition> additions_;
  int64_t fixed_ = 0;     // elements of scratch, from its start, for the rank's own sums
  int64_t received_ = 0;  // end of what is used of scratch
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

template <typename T>
absl::Status Run(Reduction<T>& reduction, const ReduceRoute& route) {
  if (reduction.size() == 1) return absl::OkStatus();
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

absl::Status CheckArguments(const Communicator& comm, const ReduceRoute& route,
                            const Owners& owners, const RanksHave& have,
                            const RanksHave& of_scratch, size_t scratch, const std::string& what) {
  if (static_cast<int>(owners.size()) != comm.size()) {
    return absl::InvalidArgumentError(absl::StrCat("'", what, "': the owner map is for ",
                                                   owners.size(), " ranks, the communicator has ",
                                                   comm.size()));
  }
  if (!have.empty() && have.size() != owners.size()) {
    return absl::InvalidArgumentError(absl::StrCat("'", what, "': who has what is said of ",
                                                   have.size(), " ranks, the communicator has ",
                                                   comm.size()));
  }
  if (route.node_size < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", what, "': expected at least 1 rank on a node, got ", route.node_size));
  }
  const int64_t needed = ReduceScratchElements(route, owners, comm.rank(), of_scratch);
  if (static_cast<int64_t>(scratch) < needed) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", what, "' needs ", needed, " elements of scratch on rank ", comm.rank(),
                     " but was given ", scratch, "; size it with ReduceScratchElements"));
  }
  return absl::OkStatus();
}

// What one exchange brings at most.
int64_t ReceivedElements(const ReduceRoute& route, const Owners& owners, int rank,
                         const RanksHave& have) {
  const auto size = static_cast<int>(owners.size());
  const std::vector<Range>& own = owners[static_cast<size_t>(rank)];
  if (size == 1) return 0;
  // What a peer sends of a part to which it has added nothing.
  const auto sent = [&](int peer, const std::vector<Range>& part) -> int64_t {
    if (Has(have, peer, RankHas::kNothing)) return 0;
    return Has(have, peer, RankHas::kSingle) ? FloatsOf(part) : SizeOf(part);
  };
  switch (route.way) {
    case ReduceWay::kDirect: {
      int64_t received = 0;
      for (int peer = 0; peer < size; ++peer) {
        if (peer != rank) received += sent(peer, own);
      }
      return received;
    }
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
      int64_t on_node = 0;
      for (int peer = first; peer < nodes.End(rank); ++peer) {
        for (int owner = 0; peer != rank && owner < size; ++owner) {
          if (nodes.Collector(first, owner) != rank) continue;
          on_node += sent(peer, owners[static_cast<size_t>(owner)]);
        }
      }
      const int node_count = (size + route.node_size - 1) / route.node_size;
      return std::max(on_node, SizeOf(own) * (node_count - 1));
    }
  }
  return 0;
}

}  // namespace

int64_t ReduceScratchElements(const ReduceRoute& route, const Owners& owners, int rank,
                              const RanksHave& have) {
  const auto size = static_cast<int>(owners.size());
  int64_t fixed = 0;
  for (int owner = 0; !Has(have, rank, RankHas::kSums) && owner < size; ++owner) {
    if (AddsUp(route, size, rank, owner)) fixed += SizeOf(owners[static_cast<size_t>(owner)]);
  }
  return fixed + ReceivedElements(route, owners, rank, have);
}

template <typename T>
absl::Status ReduceScatterSums(Communicator& comm, const ReduceRoute& route, const Owners& owners,
                               SumsAt<T> sums, std::span<T> scratch, const AddSumsFn<T>& add,
                               const std::string& what, const RanksHave& have) {
  RETURN_IF_ERROR(CheckArguments(comm, route, owners, have, {}, scratch.size(), what));
  const Parts<T> parts{.sums = sums, .have = have};
  Reduction<T> reduction(comm, route, owners, parts, scratch, add, what);
  return Run(reduction, route);
}

template absl::Status ReduceScatterSums(Communicator&, const ReduceRoute&, const Owners&,
                                        SumsAt<uint64_t>, std::span<uint64_t>,
                                        const AddSumsFn<uint64_t>&, const std::string&,
                                        const RanksHave&);
template absl::Status ReduceScatterSums(Communicator&, const ReduceRoute&, const Owners&,
                                        SumsAt<float>, std::span<float>, const AddSumsFn<float>&,
                                        const std::string&, const RanksHave&);

absl::Status ReduceScatterSingles(Communicator& comm, const ReduceRoute& route,
                                  const Owners& owners, const SingleParts& singles,
                                  SumsAt<uint64_t> sums, std::span<uint64_t> scratch,
                                  const AddSumsFn<uint64_t>& add, const std::string& what) {
  RETURN_IF_ERROR(
      CheckArguments(comm, route, owners, singles.have, singles.have, scratch.size(), what));
  const Parts<uint64_t> parts{
      .sums = sums, .have = singles.have, .floats = singles.own, .fix = singles.fix};
  Reduction<uint64_t> reduction(comm, route, owners, parts, scratch, add, what);
  RETURN_IF_ERROR(Run(reduction, route));
  for (const Range& mine : owners[static_cast<size_t>(comm.rank())]) {
    singles.total(mine, reduction.SumOf(mine));
  }
  return absl::OkStatus();
}

}  // namespace dsrun::worker
