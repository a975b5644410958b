#include "common/plan/gradient_space.h"

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(GradientSpaceTest, TheSecondUseOfATensor_BelongsToTheSamePlaceOfTheArena) {
  const FlatLayout layout(LogicalTensors({"", 2, 48, 4, 20, 257}));
  const GradientSpace space(layout);
  const Range tied = layout.Find("wte.weight").padded();
  EXPECT_EQ(space.tied(), tied);
  EXPECT_EQ(space.size(), layout.size() + tied.size());
  EXPECT_EQ(space.ArenaRange({2048, 4096}), (Range{2048, 4096}));
  EXPECT_EQ(space.ArenaRange({layout.size(), space.size()}), tied);
  EXPECT_EQ(space.ArenaRange({layout.size() + 1024, layout.size() + 2048}),
            (Range{tied.begin + 1024, tied.begin + 2048}));
}

TEST(GradientSpaceTest, EveryUseOfEveryAtomIsAContribution) {
  const FlatLayout layout(LogicalTensors({"", 2, 48, 4, 20, 257}));
  const std::vector<int64_t> contributions = GradientSpace(layout).Contributions(6);
  ASSERT_EQ(contributions.size(), layout.entries().size());
  for (size_t i = 0; i < contributions.size(); ++i) {
    const bool tied = layout.entries()[i].tensor.name == "wte.weight";
    EXPECT_EQ(contributions[i], tied ? 12 : 6) << layout.entries()[i].tensor.name;
  }
}

}  // namespace
}  // namespace dsrun
