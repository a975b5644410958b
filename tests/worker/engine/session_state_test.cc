#include "worker/engine/session_state.h"

#include <thread>

#include "gtest/gtest.h"

namespace dsrun::worker {
namespace {

proto::GenerationPlan Plan(int64_t generation) {
  proto::GenerationPlan plan;
  plan.set_generation(generation);
  return plan;
}

proto::ExchangeTable Table(const std::string& name, std::vector<std::string> values) {
  proto::ExchangeTable table;
  table.set_name(name);
  for (std::string& value : values) table.add_values(std::move(value));
  return table;
}

TEST(SessionStateTest, WaitForPlan_GivesTheNewest) {
  SessionState state;
  state.PlanAnnounced(Plan(1));
  state.PlanAnnounced(Plan(3));
  state.PlanAnnounced(Plan(2));  // late: dropped
  EXPECT_EQ(state.WaitForPlan(Generation(0))->generation(), 3);
  EXPECT_EQ(state.Newest(), Generation(3));
}

TEST(SessionStateTest, WaitForPlan_WakesOnAnnouncement) {
  SessionState state;
  std::thread waiter([&] { EXPECT_EQ(state.WaitForPlan(Generation(4))->generation(), 5); });
  state.PlanAnnounced(Plan(4));
  state.PlanAnnounced(Plan(5));
  waiter.join();
}

TEST(SessionStateTest, Ended_WakesEveryWaiter) {
  SessionState state;
  state.PlanAnnounced(Plan(1));
  std::thread plan([&] {
    EXPECT_EQ(state.WaitForPlan(Generation(1)).status().code(), absl::StatusCode::kCancelled);
  });
  std::thread table([&] {
    EXPECT_EQ(state.WaitForTable(Generation(1), "mesh").status().code(),
              absl::StatusCode::kCancelled);
  });
  state.Ended();
  plan.join();
  table.join();
}

TEST(SessionStateTest, WaitForTable_IsAbortedByANewerPlan) {
  SessionState state;
  state.PlanAnnounced(Plan(1));
  std::thread waiter([&] {
    EXPECT_EQ(state.WaitForTable(Generation(1), "mesh").status().code(),
              absl::StatusCode::kAborted);
  });
  state.PlanAnnounced(Plan(2));
  waiter.join();
}

TEST(SessionStateTest, TableOfAnOldGeneration_IsDropped) {
  SessionState state;
  state.PlanAnnounced(Plan(2));
  state.TableArrived(Generation(1), Table("mesh", {"old"}));
  state.TableArrived(Generation(2), Table("mesh", {"a", "b"}));
  EXPECT_EQ(*state.WaitForTable(Generation(2), "mesh"), (std::vector<std::string>{"a", "b"}));
}

TEST(SessionStateTest, TablesOfTwoGroups_AreTwo) {
  SessionState state;
  state.PlanAnnounced(Plan(1));
  proto::ExchangeTable of_group = Table("mesh", {"c"});
  of_group.set_group("tp@2");
  state.TableArrived(Generation(1), of_group);
  state.TableArrived(Generation(1), Table("mesh", {"a", "b"}));
  EXPECT_EQ(*state.WaitForTable(Generation(1), "mesh"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(*state.WaitForTable(Generation(1), "mesh", absl::InfiniteDuration(), "tp@2"),
            (std::vector<std::string>{"c"}));
}

TEST(SessionStateTest, OnSuperseded_RunsOnceAndNotAfterItWasCleared) {
  SessionState state;
  state.PlanAnnounced(Plan(1));
  int calls = 0;
  state.OnSuperseded(Generation(1), [&] { ++calls; });
  state.PlanAnnounced(Plan(2));
  state.PlanAnnounced(Plan(3));
  EXPECT_EQ(calls, 1);
  state.OnSuperseded(Generation(3), [&] { ++calls; });
  state.OnSuperseded(Generation(3), nullptr);
  state.PlanAnnounced(Plan(4));
  EXPECT_EQ(calls, 1);
  state.OnSuperseded(Generation(3), [&] { ++calls; });  // too late already: at once
  EXPECT_EQ(calls, 2);
}

TEST(SessionStateTest, SaveMessages_ComeToTheHandlerAlsoThoseThatCameBeforeIt) {
  SessionState state;
  proto::HostMessage message;
  message.mutable_commit_save()->set_attempt(1);
  state.SaveMessageArrived(message);
  std::vector<int64_t> attempts;
  state.OnSaveMessage(
      [&](const proto::HostMessage& m) { attempts.push_back(m.commit_save().attempt()); });
  message.mutable_commit_save()->set_attempt(2);
  state.SaveMessageArrived(message);
  EXPECT_EQ(attempts, (std::vector<int64_t>{1, 2}));
  state.OnSaveMessage(nullptr);
  state.SaveMessageArrived(message);
  EXPECT_EQ(attempts.size(), 2u);
}

TEST(SessionStateTest, WaitForTable_EndsWithItsTimeoutAndWithANewerPlan) {
  SessionState state;
  state.PlanAnnounced(Plan(1));
  EXPECT_EQ(state.WaitForTable(Generation(1), "save/8", absl::Milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  std::thread waiter([&] {
    EXPECT_EQ(state.WaitForTable(Generation(1), "save/8", absl::Hours(1)).status().code(),
              absl::StatusCode::kAborted);
  });
  state.PlanAnnounced(Plan(2));
  waiter.join();
  state.TableArrived(Generation(2), Table("save/8", {"manifest", ""}));
  EXPECT_EQ(state.WaitForTable(Generation(2), "save/8", absl::Hours(1))->at(0), "manifest");
}

TEST(SessionStateTest, StopIsRemembered) {
  SessionState state;
  EXPECT_FALSE(state.StopRequested());
  state.StopAnnounced();
  EXPECT_TRUE(state.StopRequested());
}

}  // namespace
}  // namespace dsrun::worker
