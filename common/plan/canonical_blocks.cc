#include "common/plan/canonical_blocks.h"

#include <algorithm>
#include <bit>
#include <cassert>

#include "absl/strings/str_cat.h"
#include "common/base/counted.h"

namespace dsrun {
namespace {

// Appends the maximal tree nodes under `node` that lie inside `range`.
void AppendNodes(Range node, Range range, std::vector<Range>& out) {
  if (node.end <= range.begin || range.end <= node.begin) return;
  if (range.begin <= node.begin && node.end <= range.end) {
    out.push_back(node);
    return;
  }
  AppendNodes(LeftChild(node), range, out);
  AppendNodes(RightChild(node), range, out);
}

// Sums the subtree `node`, whose finished parts are nodes[first...]; returns the slot that holds
// the sum.
int64_t AppendJoins(Range node, const std::vector<Range>& nodes, std::vector<TreeAdd>& out) {
  const auto first = std::find_if(nodes.begin(), nodes.end(),
                                  [&](const Range& part) { return part.begin == node.begin; });
  assert(first != nodes.end());
  const int64_t slot = first - nodes.begin();
  if (*first == node) return slot;
  const int64_t left = AppendJoins(LeftChild(node), nodes, out);
  const int64_t right = AppendJoins(RightChild(node), nodes, out);
  out.push_back({left, right});
  return left;
}

}  // namespace

BatchPlan::BatchPlan(int64_t micro_batches, int64_t blocks, int64_t width)
    : micro_batches_(micro_batches), blocks_(blocks), width_(width) {
  assert(ValidateBatchPlan(micro_batches, blocks, width).ok());
}

Range BatchPlan::BlockMicroBatches(int64_t block) const {
  return EvenPart(micro_batches_, blocks_, block);
}

Range BatchPlan::RankBlocks(int64_t rank) const { return EvenPart(blocks_, width_, rank); }

Range BatchPlan::RankMicroBatches(int64_t rank) const {
  const Range blocks = RankBlocks(rank);
  return {BlockMicroBatches(blocks.begin).begin, BlockMicroBatches(blocks.end - 1).end};
}

std::vector<Range> BatchPlan::RankNodes(int64_t rank) const {
  std::vector<Range> nodes;
  AppendNodes({0, blocks_}, RankBlocks(rank), nodes);
  return nodes;
}

std::vector<Range> BatchPlan::AllNodes() const {
  std::vector<Range> nodes;
  for (int64_t rank = 0; rank < width_; ++rank) AppendNodes({0, blocks_}, RankBlocks(rank), nodes);
  return nodes;
}

Range LeftChild(Range node) {
  const auto below = static_cast<uint64_t>(node.size() - 1);
  return {node.begin, node.begin + static_cast<int64_t>(std::bit_floor(below))};
}

Range RightChild(Range node) { return {LeftChild(node).end, node.end}; }

std::vector<TreeAdd> JoinOrder(const std::vector<Range>& nodes, int64_t blocks) {
  std::vector<TreeAdd> order;
  AppendJoins({0, blocks}, nodes, order);
  return order;
}

int64_t DefaultCanonicalBlocks(int64_t micro_batches, int64_t initial_width) {
  return std::min(std::max<int64_t>(16, 4 * initial_width), micro_batches);
}

absl::Status ValidateBatchPlan(int64_t micro_batches, int64_t blocks, int64_t width) {
  if (micro_batches < 1 || blocks < 1 || width < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("micro-batches (", micro_batches, "), canonical blocks (", blocks,
                     ") and data-parallel width (", width, ") must be at least 1"));
  }
  if (blocks > micro_batches) {
    return absl::InvalidArgumentError(
        absl::StrCat("canonical-blocks is ", blocks, " but the global batch has only ",
                     Counted(micro_batches, "micro-batch"), "; use at most ", micro_batches,
                     ", or a smaller micro-batch-size"));
  }
  if (width > micro_batches) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data-parallel width ", width, " is more than the ", Counted(micro_batches, "micro-batch"),
        " of the global batch; use at most ", Counted(micro_batches, "rank"),
        ", a smaller micro-batch-size, or a larger global-batch-size"));
  }
  if (width > blocks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data-parallel width ", width, " is more than the ", Counted(blocks, "canonical block"),
        " of the batch; use at most ", Counted(blocks, "rank"), ", or set canonical-blocks to ",
        width, " (at most ", micro_batches, ", the number of micro-batches)"));
  }
  return absl::OkStatus();
}

}  // namespace dsrun
