// Whatever an agent sends to its worker: generations never go back, a plan that was waited for is
// the newest one, and nothing of an older generation is handed out. Played from a seed that is
// printed (SEED gives it back).

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "tests/support/random_messages.h"
#include "worker/engine/session_state.h"

namespace dsrun::worker {
namespace {

constexpr int kWalks = 500;
constexpr int kMessages = 60;

TEST(WorkerWireFuzz, AnyMessagesFromTheAgent_NeverTakeAGenerationBack) {
  RandomMessages random(TestSeed());
  random.SetWords({"communicator", "job"});
  int plans = 0, tables = 0;
  for (int walk = 0; walk < kWalks; ++walk) {
    SCOPED_TRACE("walk " + std::to_string(walk));
    SessionState state;
    int64_t newest = 0;
    for (int i = 0; i < kMessages; ++i) {
      proto::HostMessage message;
      random.Fill(message);
      if (message.has_plan()) {
        if (random.OneIn(2) && newest < INT64_MAX) {
          message.mutable_plan()->set_generation(newest + random.Below(2));
        }
        newest = std::max(newest, message.plan().generation());
        state.PlanAnnounced(message.plan());
        ++plans;
      } else if (message.has_exchange_table()) {
        const Generation of(message.generation());
        state.TableArrived(of, message.exchange_table());
        if (message.generation() < newest) {
          const auto table = state.WaitForTable(of, message.exchange_table().name());
          EXPECT_EQ(table.status().code(), absl::StatusCode::kAborted);
        }
        ++tables;
      } else if (message.has_stop()) {
        state.StopAnnounced();
        EXPECT_TRUE(state.StopRequested());
      }
      ASSERT_EQ(state.Newest(), Generation(newest));
      EXPECT_EQ(state.Superseded(Generation(newest)), false);
    }
    if (newest > 0) {
      const auto plan = state.WaitForPlan(Generation(newest - 1));
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_EQ(plan->generation(), newest);
    }
    state.Ended();
    EXPECT_EQ(state.WaitForPlan(Generation(newest)).status().code(), absl::StatusCode::kCancelled);
  }
  EXPECT_GT(plans, kWalks);
  EXPECT_GT(tables, kWalks);
}

}  // namespace
}  // namespace dsrun::worker
