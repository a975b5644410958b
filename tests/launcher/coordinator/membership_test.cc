// When a node is silent: by the time in which the coordinator could hear it, however it was slowed.

#include "launcher/coordinator/membership.h"

#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dsrun::launcher {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kSilent = absl::Seconds(1);

// Two nodes that are open at 0; node 0 is heard before every tick.
class MembershipTest : public ::testing::Test {
 protected:
  MembershipTest() : members_(2) {
    members_.Open(NodeId(0), Incarnation(1), absl::ZeroDuration());
    members_.Open(NodeId(1), Incarnation(2), absl::ZeroDuration());
    TickAfter(absl::ZeroDuration());
  }
  Membership::TickResult TickAfter(absl::Duration gap, std::vector<NodeId> heard = {NodeId(0)}) {
    now_ += gap;
    return members_.OnTick(now_, heard, kSilent);
  }
  // Ticks until somebody is silent; how long that took. Not more than a hundred.
  absl::Duration UntilSomebodyIsSilent(absl::Duration gap) {
    const absl::Duration begin = now_;
    for (int i = 0; i < 100; ++i) {
      const Membership::TickResult result = TickAfter(gap);
      if (result.silent.empty()) continue;
      EXPECT_THAT(result.silent, ElementsAre(NodeId(1)));
      return now_ - begin;
    }
    return absl::InfiniteDuration();
  }

  Membership members_;
  absl::Duration now_;
};

TEST_F(MembershipTest, OnTime_ItIsSilentAfterTheLimit) {
  EXPECT_EQ(UntilSomebodyIsSilent(absl::Milliseconds(50)), kSilent);
}

// A busy coordinator: every one of its ticks is late, some more, some less.
TEST_F(MembershipTest, WhenEveryTickIsLate_ItIsSilentAfterFourOfThem) {
  for (const absl::Duration gap : {absl::Milliseconds(260), absl::Milliseconds(520),
                                   absl::Milliseconds(700), absl::Seconds(5)}) {
    Membership fresh(2);
    fresh.Open(NodeId(0), Incarnation(1), now_);
    fresh.Open(NodeId(1), Incarnation(2), now_);
    members_ = fresh;
    TickAfter(absl::ZeroDuration());
    EXPECT_EQ(UntilSomebodyIsSilent(gap), 4 * gap) << gap;
  }
}

TEST_F(MembershipTest, AfterAPause_WhoIsHeardWithinARemainder_IsNotSilent) {
  TickAfter(absl::Milliseconds(200));
  TickAfter(absl::Milliseconds(130));  // three heartbeats a limit: it spoke just before
  const Membership::TickResult late = TickAfter(absl::Hours(1));
  EXPECT_TRUE(late.late);
  EXPECT_THAT(late.silent, IsEmpty());
  for (int i = 0; i < 6; ++i) {
    EXPECT_THAT(TickAfter(absl::Milliseconds(50)).silent, IsEmpty()) << i;
  }
  EXPECT_THAT(TickAfter(absl::Milliseconds(30), {NodeId(0), NodeId(1)}).silent, IsEmpty());
  EXPECT_EQ(UntilSomebodyIsSilent(absl::Milliseconds(50)), kSilent);
}

TEST_F(MembershipTest, AfterAPause_WhoStaysSilent_IsFoundWithinTheLimit) {
  TickAfter(absl::Hours(1));
  EXPECT_EQ(UntilSomebodyIsSilent(absl::Milliseconds(50)), absl::Milliseconds(750));
}

// Heard just before a long step, a node gets no more than the limit from the step's end on.
TEST_F(MembershipTest, APause_GivesNobodyMoreThanTheLimit) {
  members_.Heard(NodeId(1), now_ + absl::Milliseconds(49));
  TickAfter(absl::Hours(1));
  EXPECT_LE(UntilSomebodyIsSilent(absl::Milliseconds(50)), kSilent);
}

TEST_F(MembershipTest, CountsFollowTheNodes_AlsoRestored) {
  members_.Lose(NodeId(1));
  EXPECT_EQ(members_.LiveCount(), 1u);
  EXPECT_FALSE(members_.AllOpen());
  members_.Lose(NodeId(1));
  members_.Done(NodeId(0));
  const auto again = Membership::Restore(2, members_.Snapshot());
  ASSERT_TRUE(again.ok()) << again.status();
  for (const Membership& each : {members_, *again}) {
    EXPECT_EQ(each.CountOf(Membership::NodeState::kOpen), 0u);
    EXPECT_EQ(each.CountOf(Membership::NodeState::kDone), 1u);
    EXPECT_EQ(each.CountOf(Membership::NodeState::kLost), 1u);
  }
}

}  // namespace
}  // namespace dsrun::launcher
