#include "worker/parallel/leaf_sums.h"

#include <algorithm>

#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/plan/shard_plan.h"

namespace dsrun::worker {

absl::Status LeafSums::Add(int64_t elements, const float* x, ExactSum& sum) const {
  CHECK_EQ(elements % kLeafElements, 0);
  const auto most = static_cast<int64_t>(squares.size());
  for (int64_t left = elements / kLeafElements; left > 0;) {
    const int64_t leaves = std::min(left, most);
    kernels->LeafSquares(leaves, x, leaf_squares);
    Stream& stream = kernels->stream();
    stream.Copy(squares.data(), leaf_squares, static_cast<size_t>(leaves) * sizeof(double));
    RETURN_IF_ERROR(stream.Record().Await());
    for (int64_t i = 0; i < leaves; ++i) sum.Add(squares[static_cast<size_t>(i)]);
    x += leaves * kLeafElements;
    left -= leaves;
  }
  return absl::OkStatus();
}

}  // namespace dsrun::worker
