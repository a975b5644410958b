#include "worker/comm/core/canonical_reduce.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// Elements added before going to the next join: all operands of a chunk stay in the L2 cache.
constexpr int64_t kChunkElements = 8192;

int64_t TotalSize(const std::vector<Range>& ranges) {
  int64_t total = 0;
  for (const Range& range : ranges) total += range.size();
  return total;
}

// Where the sums of one tree node stand on this rank: element i of own range `range` is at
// base[i] (gradient space), or at packed[offset of the range + i - range.begin].
struct NodeSlot {
  const float* space = nullptr;  // a node of our own: read only
  float* writable_space = nullptr;
  float* packed = nullptr;

  bool writable() const { return space == nullptr; }
  const float* Read(Range range, int64_t packed_offset) const {
    if (space != nullptr) return space + range.begin;
    return Write(range, packed_offset);
  }
  float* Write(Range range, int64_t packed_offset) const {
    if (writable_space != nullptr) return writable_space + range.begin;
    return packed + packed_offset;
  }
};

// One addition of the tree: slots[into] += slots[from], and where the sum is found later.
struct Join {
  size_t into;
  size_t from;
};

struct Layout {
  std::vector<NodeSlot> slots;  // by tree node, in order
  size_t result;                // the slot that stands in the result
};

absl::Status CheckArguments(const Communicator& comm, const BatchPlan& plan,
                            const std::vector<std::vector<Range>>& owned_by_rank, size_t node_count,
                            size_t expected_nodes, const std::string& what) {
  if (comm.size() != plan.width() || static_cast<int64_t>(owned_by_rank.size()) != plan.width()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", what, "': the batch plan is for ", plan.width(),
                     " ranks, the communicator has ", comm.size(), " and the owner map ",
                     owned_by_rank.size(), "; build all three for one generation"));
  }
  if (node_count != expected_nodes) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", what, "': rank ", comm.rank(), " finishes ", expected_nodes,
                     " tree nodes alone but was given ", node_count, " partial sums"));
  }
  return absl::OkStatus();
}

// Gives every node a place: our own nodes stay where they are, the first remote one is received
// straight into the result, the others into scratch.
Layout LayOut(const BatchPlan& plan, int64_t rank, std::span<const float* const> node_sums,
              float* result, float* scratch, int64_t own_size) {
  Layout layout;
  bool result_used = false;
  const auto in_place = std::find(node_sums.begin(), node_sums.end(), result);
  for (int64_t peer = 0; peer < plan.width(); ++peer) {
    const size_t nodes = plan.RankNodes(peer).size();
    for (size_t node = 0; node < nodes; ++node) {
      NodeSlot slot;
      const bool own = peer == rank;
      if (own ? node_sums[node] == result : in_place == node_sums.end() && !result_used) {
        slot.writable_space = result;
        result_used = true;
        layout.result = layout.slots.size();
      } else if (own) {
        slot.space = node_sums[node];
      } else {
        slot.packed = scratch;
        scratch += own_size;
      }
      layout.slots.push_back(slot);
    }
  }
  return layout;
}

// Chooses for every addition which operand is overwritten: the one that leads to the result, else
// one that is writable. Two of our own nodes never meet: they would be one node.
std::vector<Join> PlanJoins(const std::vector<TreeAdd>& order, const Layout& layout) {
  std::vector<size_t> place(layout.slots.size());  // by slot of the tree: where its sum stands
  for (size_t slot = 0; slot < place.size(); ++slot) place[slot] = slot;
  std::vector<Join> joins;
  for (const TreeAdd& step : order) {
    size_t into = place[static_cast<size_t>(step.into)];
    size_t from = place[static_cast<size_t>(step.from)];
    if (from == layout.result || (into != layout.result && !layout.slots[into].writable())) {
      std::swap(into, from);
    }
    joins.push_back({into, from});
    place[static_cast<size_t>(step.into)] = into;
  }
  return joins;
}

void AddAll(const Layout& layout, const std::vector<Join>& joins, const std::vector<Range>& own,
            const AddFn& add) {
  int64_t packed_offset = 0;
  for (const Range& range : own) {
    for (int64_t begin = 0; begin < range.size(); begin += kChunkElements) {
      const int64_t n = std::min(kChunkElements, range.size() - begin);
      for (const Join& join : joins) {
        add(layout.slots[join.into].Write(range, packed_offset) + begin,
            layout.slots[join.from].Read(range, packed_offset) + begin, n);
      }
    }
    packed_offset += range.size();
  }
}

// Partial sums of one bucket: ours to their owners, the others' of what we own to us.
absl::Status ExchangeNodes(Communicator& comm, const BatchPlan& plan,
                           const std::vector<std::vector<Range>>& owned_by_rank,
                           std::span<const float* const> node_sums, const Layout& layout,
                           const std::string& what) {
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  size_t slot = 0;
  for (int peer = 0; peer < comm.size(); ++peer) {
    const size_t peer_nodes = plan.RankNodes(peer).size();
    if (peer == comm.rank()) {
      slot += peer_nodes;
      continue;
    }
    for (const float* sums : node_sums) {
      for (const Range& range : owned_by_rank[static_cast<size_t>(peer)]) {
        sends.push_back(
            {peer, sums + range.begin, static_cast<size_t>(range.size()) * sizeof(float)});
      }
    }
    for (size_t node = 0; node < peer_nodes; ++node, ++slot) {
      int64_t packed_offset = 0;
      for (const Range& range : owned_by_rank[static_cast<size_t>(comm.rank())]) {
        recvs.push_back({peer, layout.slots[slot].Write(range, packed_offset),
                         static_cast<size_t>(range.size()) * sizeof(float)});
        packed_offset += range.size();
      }
    }
  }
  return comm.Exchange(sends, recvs, what);
}

}  // namespace

int64_t ReduceScratchElements(const BatchPlan& plan, int64_t rank, int64_t owned_elements,
                              bool in_place) {
  const auto remote = static_cast<int64_t>(plan.AllNodes().size() - plan.RankNodes(rank).size());
  return std::max<int64_t>(0, in_place ? remote : remote - 1) * owned_elements;
}

absl::Status CanonicalReduceScatter(Communicator& comm, const BatchPlan& plan,
                                    const std::vector<std::vector<Range>>& owned_by_rank,
                                    std::span<const float* const> node_sums, float* result,
                                    std::span<float> scratch, const AddFn& add,
                                    const std::string& what) {
  const int64_t rank = comm.rank();
  RETURN_IF_ERROR(CheckArguments(comm, plan, owned_by_rank, node_sums.size(),
                                 plan.RankNodes(rank).size(), what));
  const std::vector<Range>& own = owned_by_rank[static_cast<size_t>(rank)];
  const int64_t own_size = TotalSize(own);
  const bool in_place = std::find(node_sums.begin(), node_sums.end(), result) != node_sums.end();
  const int64_t needed = ReduceScratchElements(plan, rank, own_size, in_place);
  if (static_cast<int64_t>(scratch.size()) < needed) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", what, "' needs ", needed, " floats of scratch on rank ", rank,
                     " but was given ", scratch.size(), "; size it with ReduceScratchElements"));
  }
  if (plan.width() == 1) {  // one node, the root: nothing to send or add
    for (const Range& range : own) {
      if (in_place) break;
      std::memcpy(result + range.begin, node_sums[0] + range.begin,
                  static_cast<size_t>(range.size()) * sizeof(float));
    }
    return absl::OkStatus();
  }
  const Layout layout = LayOut(plan, rank, node_sums, result, scratch.data(), own_size);
  RETURN_IF_ERROR(ExchangeNodes(comm, plan, owned_by_rank, node_sums, layout, what));
  AddAll(layout, PlanJoins(JoinOrder(plan.AllNodes(), plan.blocks()), layout), own, add);
  return absl::OkStatus();
}

absl::Status AllGatherRanges(Communicator& comm,
                             const std::vector<std::vector<Range>>& owned_by_rank, float* base,
                             const std::string& what) {
  if (static_cast<int64_t>(owned_by_rank.size()) != comm.size()) {
    return absl::InvalidArgumentError(absl::StrCat("'", what, "': the owner map is for ",
                                                   owned_by_rank.size(),
                                                   " ranks, the communicator has ", comm.size()));
  }
  const auto bytes = [](Range range) { return static_cast<size_t>(range.size()) * sizeof(float); };
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (int peer = 0; peer < comm.size(); ++peer) {
    if (peer == comm.rank()) continue;
    for (const Range& range : owned_by_rank[static_cast<size_t>(comm.rank())]) {
      sends.push_back({peer, base + range.begin, bytes(range)});
    }
    for (const Range& range : owned_by_rank[static_cast<size_t>(peer)]) {
      recvs.push_back({peer, base + range.begin, bytes(range)});
    }
  }
  return comm.Exchange(sends, recvs, what);
}

}  // namespace dsrun::worker
