// Norms of tensors: the same bits at every width, also where a rank owns nothing of a tensor, or
// nothing at all.

#include "worker/parallel/tensor_norms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/worker/comm/rank_threads.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/random_normal.h"

namespace dsrun::worker {
namespace {

std::vector<LogicalTensor> Tensors() {
  return {{.name = "a", .shape = {5000}},
          {.name = "b", .shape = {7}},
          {.name = "c", .shape = {40, 77}},
          {.name = "frozen", .shape = {3000}, .trainable = false}};
}

// Of ranks that have room for `most` squares at a time; rank 0's.
std::vector<TensorNorms::Norms> NormsAt(int width, size_t most) {
  const FlatLayout layout(Tensors());
  const ShardPlan shards(layout, width, 16 << 10);
  std::vector<float> param(static_cast<size_t>(layout.size()));
  std::vector<float> direction(param.size());
  for (const FlatLayout::Entry& entry : layout.entries()) {
    NormalRange(1, StreamId("param", entry.tensor.name), 0, entry.tensor.size(), 100,
                param.data() + entry.offset);
    NormalRange(1, StreamId("direction", entry.tensor.name), 0, entry.tensor.size(), 1,
                direction.data() + entry.offset);
  }
  std::vector<TensorNorms::Norms> norms;
  Group group = MakeGroup(Backend::kInProcess, width);
  RunRanks(width, [&](int rank) {
    ThreadPool pool(1);
    CpuKernels kernels(pool, BestIsa());
    std::vector<double> device(most), host(most);
    TensorNorms exchange({.communicator = group[static_cast<size_t>(rank)].get(),
                          .layout = &layout,
                          .shards = &shards,
                          .squares = {&kernels, device.data(), host}});
    for (int step = 0; step < 2; ++step) {  // nothing of a step stays for the next
      for (const Range& range : shards.Owned(rank)) {
        ASSERT_TRUE(
            exchange.Add(range, param.data() + range.begin, direction.data() + range.begin).ok());
      }
      const auto found = exchange.Gather();
      ASSERT_TRUE(found.ok()) << found.status();
      if (rank == 0) norms = *found;
    }
  });
  for (size_t i = 0; i < norms.size(); ++i) {
    const FlatLayout::Entry& entry = layout.entries()[i];
    double square = 0;
    for (int64_t at = entry.flat().begin; at < entry.flat().end; ++at) {
      square += std::pow(double{param[static_cast<size_t>(at)]}, 2);
    }
    EXPECT_NEAR(norms[i].parameter, std::sqrt(square), 1e-12 * std::sqrt(square));
  }
  return norms;
}

TEST(TensorNormsTest, EveryWidth_HasTheBitsOfOneRank) {
  const std::vector<TensorNorms::Norms> one = NormsAt(1, 100);
  ASSERT_EQ(one.size(), 3u);  // what is frozen has none
  EXPECT_NE(one[0].parameter, one[0].direction);
  for (const int width : {2, 3, 8, 12}) {
    const std::vector<TensorNorms::Norms> other = NormsAt(width, 2);
    ASSERT_EQ(other.size(), one.size());
    for (size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(one[i].parameter, other[i].parameter) << "width " << width;
      EXPECT_EQ(one[i].direction, other[i].direction) << "width " << width;
    }
  }
}

}  // namespace
}  // namespace dsrun::worker
