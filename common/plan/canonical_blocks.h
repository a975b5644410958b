// The fixed tree over the batch (docs/numerics.md): which logical micro-batches a rank computes,
// which partial sums it sends, and in which order anybody adds them. Pure; a function of
// (micro-batches, blocks, width, rank) only.
//
//   global batch = M logical micro-batches, cut into B canonical blocks of consecutive
//   micro-batches (counts differ by at most one, longer blocks first). Over the blocks stands one
//   fixed binary tree: the left child of a node over n > 1 blocks has the largest power of two
//   below n. A rank owns consecutive whole blocks. The partial sums that it can finish alone are
//   the maximal tree nodes inside its range.

#ifndef DSRUN_COMMON_PLAN_CANONICAL_BLOCKS_H_
#define DSRUN_COMMON_PLAN_CANONICAL_BLOCKS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "common/base/range.h"

namespace dsrun {

// The batch's division. REQUIRES: 1 <= width <= blocks <= micro_batches (see ValidateBatchPlan).
class BatchPlan {
 public:
  BatchPlan(int64_t micro_batches, int64_t blocks, int64_t width);

  int64_t micro_batches() const { return micro_batches_; }
  int64_t blocks() const { return blocks_; }
  int64_t width() const { return width_; }

  Range BlockMicroBatches(int64_t block) const;  // micro-batches of one block
  Range RankBlocks(int64_t rank) const;          // blocks of one rank
  Range RankMicroBatches(int64_t rank) const;

  // The tree nodes (block ranges) that `rank` finishes alone, in order. Never empty; one when the
  // range is a node.
  std::vector<Range> RankNodes(int64_t rank) const;
  // RankNodes of all ranks, in order: they partition [0, blocks).
  std::vector<Range> AllNodes() const;

 private:
  int64_t micro_batches_;
  int64_t blocks_;
  int64_t width_;
};

// The left child of tree node `node`. REQUIRES: node.size() > 1.
Range LeftChild(Range node);
Range RightChild(Range node);

// The order of additions that joins `nodes` (a partition of [0, blocks) into tree nodes, in order)
// into the root: step k means "slot[into] += slot[from]", slots indexed like `nodes`. The root ends
// in slot 0.
struct TreeAdd {
  int64_t into;
  int64_t from;
  friend bool operator==(const TreeAdd&, const TreeAdd&) = default;
};
std::vector<TreeAdd> JoinOrder(const std::vector<Range>& nodes, int64_t blocks);

// Blocks of a job whose user names none: 16 at least, so that jobs that start with up to four ranks
// share one curve whatever their width, and four for each rank beyond, so that a wide one can lose
// three quarters of its ranks evenly; never more than micro-batches. Each doubling costs a rank one
// more gradient buffer at most.
int64_t DefaultCanonicalBlocks(int64_t micro_batches, int64_t initial_width);

// Errors: INVALID_ARGUMENT with the numbers and what would fit: width above blocks, blocks above
// micro-batches, ...
absl::Status ValidateBatchPlan(int64_t micro_batches, int64_t blocks, int64_t width);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_CANONICAL_BLOCKS_H_
