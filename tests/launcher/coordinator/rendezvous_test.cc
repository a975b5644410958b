// Ranks of a group meet by its name: whom a table waits for, and who hears of it.

#include <string>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/coordinator/rendezvous_table.h"
#include "tests/launcher/coordinator/cell_bench.h"

namespace dsrun::launcher {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Values(const proto::ExchangeTable& table) {
  return {table.values().begin(), table.values().end()};
}

TEST(RendezvousTable, AGroup_WaitsForItsOwnRanksAlone) {
  RendezvousTable table;
  table.Reset(4);
  EXPECT_FALSE(table.Put("cp@1", 2, Rank(3), "address", "of 3"));
  // The same name in another group, and of all ranks, is another table.
  EXPECT_FALSE(table.Put("cp@0", 2, Rank(2), "address", "of 2"));
  EXPECT_FALSE(table.Put(Rank(1), "address", "world's of 1"));
  EXPECT_EQ(table.ToString(), "address=1/4 address of cp@0=1 address of cp@1=1");
  EXPECT_FALSE(table.Put("cp@1", 2, Rank(3), "address", "again")) << "the first counts";
  const auto complete = table.Put("cp@1", 2, Rank(1), "address", "of 1");
  ASSERT_TRUE(complete.has_value());
  EXPECT_EQ(complete->group(), "cp@1");
  EXPECT_EQ(complete->name(), "address");
  EXPECT_THAT(Values(*complete), ElementsAre("of 1", "of 3"));
  EXPECT_FALSE(table.Put("cp@1", 2, Rank(1), "address", "late")) << "it is answered";
  EXPECT_FALSE(table.Answered("address")) << "of all ranks it is not";
  const absl::StatusOr<RendezvousTable> restored = RendezvousTable::Restore(4, table.Snapshot());
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->ToString(), table.ToString());
}

// A bench whose second generation is starting: rank 0 on node 0, rank 1 on node 1.
class GroupRendezvousTest : public ::testing::Test {
 protected:
  GroupRendezvousTest() : bench_(/*train=*/true) {
    EXPECT_TRUE(bench_.DriveTo(Coordinator::State::kStarting));
  }
  // Of every table that is sent: "NODE: GROUP NAME values".
  std::vector<std::string> Put(int rank, const std::string& group) {
    Event event = bench_.Spoke(rank, Kind::kExchangePut);
    proto::ExchangePut* const put = std::get<AgentSpoke>(event)
                                        .message.mutable_worker_report()
                                        ->mutable_message()
                                        ->mutable_exchange_put();
    put->set_group(group);
    put->set_name("communicator");
    put->set_value(std::to_string(rank));
    std::vector<std::string> sent;
    for (const Action& action : bench_.Feed(event)) {
      const auto* const send = std::get_if<SendToAgent>(&action);
      if (send == nullptr || !send->body->has_exchange_table()) continue;
      const proto::ExchangeTable& table = send->body->exchange_table();
      std::string text = std::to_string(send->node.value()) + ": " + table.group();
      for (const std::string& value : table.values()) text += " " + value;
      sent.push_back(text);
    }
    return sent;
  }

  Bench bench_;
};

TEST_F(GroupRendezvousTest, OnlyTheNodesOfItsRanks_HearOfATable) {
  EXPECT_THAT(Put(1, "tp@1"), ElementsAre("1: tp@1 1"));
  EXPECT_THAT(Put(0, "dp@0"), IsEmpty());
  EXPECT_THAT(Put(1, "dp@0"), ElementsAre("0: dp@0 0 1", "1: dp@0 0 1"));
}

TEST_F(GroupRendezvousTest, WhoIsNoMember_PutsNothing) {
  for (const std::string group : {"tp@1", "tp@2", "dp@1", "xp@0", "world", "tp", "dp-cp@0"}) {
    EXPECT_THAT(Put(0, group), IsEmpty()) << group;
  }
  EXPECT_THAT(Put(0, "tp@0"), ElementsAre("0: tp@0 0")) << "its own it may";
}

}  // namespace
}  // namespace dsrun::launcher
