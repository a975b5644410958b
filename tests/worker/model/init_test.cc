#include "worker/model/init.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/model/model_plan.h"

namespace dsrun::worker {
namespace {

const ModelSpec kSpec{"tiny", 2, 48, 4, 12, 17};

TEST(InitTest, AnyRangeAlone_HasTheBitsOfTheWhole_AlsoByThreads) {
  const FlatLayout layout(LogicalTensors(kSpec));
  std::vector<float> whole(static_cast<size_t>(layout.size()), 99.0f);
  InitParameters(layout, 7, whole.data());
  std::vector<float> threaded(whole.size(), 98.0f);
  ThreadPool pool(3);
  InitParameters(layout, 7, threaded.data(), &pool);
  EXPECT_EQ(whole, threaded);
  for (int64_t begin = 0; begin < layout.size(); begin += 997) {
    const Range range{begin, std::min(begin + 2500, layout.size())};
    std::vector<float> part(static_cast<size_t>(range.size()), 97.0f);
    InitParameterRange(layout, 7, range, part.data());
    ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin)) << begin;
  }
}

TEST(InitTest, TensorsStartAsTheirKindSays_PaddingIsZero) {
  const FlatLayout layout(LogicalTensors(kSpec));
  std::vector<float> arena(static_cast<size_t>(layout.size()), 99.0f);
  InitParameters(layout, 7, arena.data());
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const Range flat = entry.flat();
    double squares = 0;
    for (int64_t i = flat.begin; i < flat.end; ++i) {
      const float value = arena[static_cast<size_t>(i)];
      squares += double{value} * value;
      if (entry.tensor.init == Init::kZeros) {
        ASSERT_EQ(value, 0.0f) << entry.tensor.name;
      }
      if (entry.tensor.init == Init::kOnes) {
        ASSERT_EQ(value, 1.0f) << entry.tensor.name;
      }
    }
    const double deviation = std::sqrt(squares / static_cast<double>(flat.size()));
    // At least 576 elements: the deviation is known to 3 %; four times that is allowed.
    if (entry.tensor.init == Init::kNormal) {
      const bool residual = entry.tensor.name.ends_with("c_proj.weight");
      EXPECT_NEAR(deviation, residual ? 0.01 : 0.02, residual ? 0.0012 : 0.0024)
          << entry.tensor.name;
    }
    for (int64_t i = flat.end; i < entry.padded().end; ++i) {
      ASSERT_EQ(arena[static_cast<size_t>(i)], 0.0f) << "padding of " << entry.tensor.name;
    }
  }
}

TEST(InitTest, OtherSeed_OtherNumbers) {
  const FlatLayout layout(LogicalTensors(kSpec));
  std::vector<float> a(static_cast<size_t>(layout.size()));
  std::vector<float> b(a.size());
  InitParameters(layout, 1, a.data());
  InitParameters(layout, 2, b.data());
  EXPECT_NE(a, b);
}

}  // namespace
}  // namespace dsrun::worker
