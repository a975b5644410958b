#include "common/config/nearest.h"

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(EditDistance, CountsInsertDeleteReplaceAndSwap) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("", "abc"), 3u);
  EXPECT_EQ(EditDistance("abc", "abd"), 1u);
  EXPECT_EQ(EditDistance("abc", "ac"), 1u);
  EXPECT_EQ(EditDistance("hostfiel", "hostfile"), 1u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
}

TEST(NearestName, FindsTypingMistakesAndNothingElse) {
  const std::vector<std::string> known = {"--hostfile", "--include", "--num_gpus", "--num_nodes"};
  EXPECT_EQ(NearestName("--hostfil", known), "--hostfile");
  EXPECT_EQ(NearestName("--num-gpu", known), "--num_gpus");
  EXPECT_EQ(NearestName("--INCLUDE", known), "--include");
  EXPECT_EQ(NearestName("--zebra", known), "");
  EXPECT_EQ(NearestName("", known), "");
  EXPECT_EQ(NearestName(std::string(100000, 'a'), known), "");
  EXPECT_EQ(DidYouMean("--hostfil", known), "; did you mean --hostfile?");
  EXPECT_EQ(DidYouMean("--zebra", known), "");
}

}  // namespace
}  // namespace dsrun
