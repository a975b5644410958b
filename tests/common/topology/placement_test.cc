#include "common/topology/placement.h"

#include <set>
#include <string>
#include <tuple>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

NodeSlots Node(int id, std::vector<int> slots) {
  NodeSlots out{NodeId(id), {}};
  for (const int slot : slots) out.slots.push_back(Slot(slot));
  return out;
}

TEST(PlaceRanks, HeterogeneousSlotsKeepLocalRanksPerNode) {
  const auto table = PlaceRanks({Node(0, {0, 1, 2}), Node(1, {0, 1})});
  ASSERT_TRUE(table.ok()) << table.status();
  const std::vector<std::tuple<int, int, int, int>> want = {
      {0, 0, 0, 3}, {0, 1, 1, 3}, {0, 2, 2, 3}, {1, 0, 0, 2}, {1, 1, 1, 2}};
  ASSERT_EQ(table->size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const RankPlace& p = (*table)[i];
    EXPECT_EQ(p.rank, Rank(static_cast<int>(i)));
    EXPECT_EQ(std::make_tuple(p.node.value(), p.slot.value(), p.local_rank, p.local_size), want[i]);
    EXPECT_EQ(p.cross_rank, p.node.value());
    EXPECT_EQ(p.cross_size, 2);
  }
}

TEST(PlaceRanks, LostNodesLeaveNoHoleInRanks) {
  const auto table = PlaceRanks({Node(5, {3, 1}), Node(2, {7})});
  ASSERT_TRUE(table.ok());
  ASSERT_EQ(table->size(), 3u);
  EXPECT_EQ((*table)[0].worker(), (WorkerId{NodeId(2), Slot(7)}));
  EXPECT_EQ((*table)[1].worker(), (WorkerId{NodeId(5), Slot(1)}));
  EXPECT_EQ((*table)[2].worker(), (WorkerId{NodeId(5), Slot(3)}));
  EXPECT_EQ((*table)[2].cross_rank, 1);
  EXPECT_EQ((*table)[2].local_rank, 1);
}

// All worlds of up to four nodes with up to four slots each.
TEST(PlaceRanks, AllSmallWorlds) {
  for (int shape = 1; shape < 5 * 5 * 5 * 5; ++shape) {
    std::vector<NodeSlots> nodes;
    int world = 0;
    for (int n = 0, rest = shape; n < 4; ++n, rest /= 5) {
      std::vector<int> slots;
      for (int s = 0; s < rest % 5; ++s) slots.push_back(s);
      world += static_cast<int>(slots.size());
      if (!slots.empty()) nodes.push_back(Node(n, slots));
    }
    const auto table = PlaceRanks(nodes);
    ASSERT_TRUE(table.ok()) << table.status();
    ASSERT_EQ(static_cast<int>(table->size()), world);
    std::set<WorkerId> workers;
    for (int r = 0; r < world; ++r) {
      const RankPlace& p = (*table)[static_cast<size_t>(r)];
      ASSERT_EQ(p.rank, Rank(r));
      ASSERT_LT(p.local_rank, p.local_size);
      ASSERT_LT(p.cross_rank, p.cross_size);
      if (r > 0) {
        ASSERT_LT((*table)[static_cast<size_t>(r) - 1].worker(), p.worker());
      }
      workers.insert(p.worker());
    }
    ASSERT_EQ(static_cast<int>(workers.size()), world);
  }
}

TEST(PlaceRanks, ErrorsNameTheThing) {
  const auto message = [](std::vector<NodeSlots> nodes) {
    return std::string(PlaceRanks(std::move(nodes)).status().message());
  };
  EXPECT_EQ(message({}), "no slot to place a rank on; name a host");
  EXPECT_EQ(message({Node(1, {})}), "node 1 has no slot; leave it out or give it one");
  EXPECT_EQ(message({Node(1, {0}), Node(1, {1})}), "node 1 is given twice; give each node once");
  EXPECT_EQ(message({Node(1, {2, 2})}), "slot 2 of node 1 is given twice; give each slot once");
}

}  // namespace
}  // namespace dsrun
