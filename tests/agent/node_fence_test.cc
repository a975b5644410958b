// NodeCore: what keeps two generations of a program apart: the lease, also across a suspend of the
// machine, and a node that is clear before the next generation begins.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

#include "agent/node_core.h"
#include "common/base/proto_duration.h"
#include "tests/agent/scripted_node.h"

namespace dsrun::agent {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The defaults of proto/job.proto.
constexpr absl::Duration kLease = absl::Seconds(30);
constexpr absl::Duration kGrace = absl::Seconds(15);

absl::Duration GraceOf(const std::vector<NodeAction>& actions) {
  for (const NodeAction& action : actions) {
    if (const auto* ladder = std::get_if<StopLadder>(&action)) return ladder->grace;
  }
  return -absl::InfiniteDuration();
}

TEST(NodeFence, ProgramThatWakesAfterLeaseAndGrace_IsKilledBeforeAnythingIsHeard) {
  Node node(/*program=*/true);
  node.Run({0, 1});
  EXPECT_THAT(node.Step(Slept{kLease + kGrace}), ElementsAre("kill 0", "kill 1"));
  // The word that waited in the socket renews nothing.
  EXPECT_THAT(node.CoordinatorBeat(), IsEmpty());
  EXPECT_THAT(node.Begin(2, {0, 1}), IsEmpty());
  node.Ended(0, 9);
  EXPECT_THAT(node.exited().reason(), HasSubstr("this machine was suspended for 45 s"));
  EXPECT_THAT(node.Ended(1, 9), Contains("abandoned"));
}

TEST(NodeFence, ProgramThatWakesWithinTheGrace_HasWhatIsLeftOfIt) {
  Node node(/*program=*/true);
  node.Run({0});
  EXPECT_THAT(node.Step(Slept{kLease + absl::Seconds(10)}), ElementsAre("ladder 0"));
  EXPECT_EQ(GraceOf(node.actions()), kGrace - absl::Seconds(10));
}

TEST(NodeFence, ProgramThatSleepsInItsLadder_IsKilledWhenTheGraceIsOver) {
  Node node(/*program=*/true);
  node.Run({0});
  EXPECT_THAT(node.Ticking(kLease), ElementsAre("ladder 0"));
  EXPECT_THAT(node.Step(Slept{kGrace - absl::Seconds(1)}), IsEmpty());
  EXPECT_THAT(node.Step(Slept{absl::Seconds(1)}), ElementsAre("kill 0"));
}

TEST(NodeFence, ShortSleepsOfAProgram_AddUpUntilTheNextWord) {
  Node node(/*program=*/true);
  node.Run({0});
  EXPECT_THAT(node.Step(Slept{kLease / 2}), IsEmpty());
  node.CoordinatorBeat();
  EXPECT_THAT(node.Step(Slept{kLease / 2}), IsEmpty());
  EXPECT_THAT(node.Ticking(kLease / 2), ElementsAre("ladder 0"));
}

// Its generations fence it; a machine that was suspended with all of its job goes on.
TEST(NodeFence, TrainingThatWakes_GoesOn) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.Step(Slept{absl::Hours(10)}), IsEmpty());
  EXPECT_THAT(node.CoordinatorBeat(), IsEmpty());
  EXPECT_EQ(node.state(0), WorkerState::kConnected);
}

// An agent whose core did not run meanwhile finds both: the time, and a word that came in it.
TEST(NodeFence, WordThatIsHeardAfterTheLease_RenewsNothing) {
  Node node(/*program=*/true);
  node.Run({0});
  node.Pass(kLease);
  EXPECT_THAT(node.CoordinatorBeat(), ElementsAre("ladder 0"));
  EXPECT_THAT(node.Begin(2, {0}), IsEmpty());
}

// Sent by a clock that shares no zero with the agent's, and drifts by what real ones do.
TEST(NodeFence, HeartbeatThatWasKeptBack_CountsFromWhenItShouldHaveCome) {
  Node node(/*program=*/true);
  node.Run({0});
  absl::Duration sent = absl::Hours(-3);
  const auto beat = [&] {
    proto::CoordinatorMessage message = Node::Message(0);
    *message.mutable_heartbeat()->mutable_sent() = ToProto(sent);
    return node.Step(CoordinatorReceived{message});
  };
  for (int i = 0; i < 10'000; ++i) {
    node.Pass(absl::Milliseconds(500));
    sent += absl::Milliseconds(500) - absl::Microseconds(50);
    ASSERT_THAT(beat(), IsEmpty());
  }
  // Six more are sent, come together 20 s later, and nothing comes behind them.
  sent += absl::Seconds(3);
  node.Pass(absl::Seconds(23));
  ASSERT_THAT(beat(), IsEmpty());
  EXPECT_THAT(node.Ticking(absl::Seconds(9)), IsEmpty());
  EXPECT_THAT(node.Ticking(absl::Seconds(2)), ElementsAre("ladder 0"));
}

TEST(NodeFence, MessageThatDoesNotSayWhenItWasSent_RenewsNoLeaseOfAProgram) {
  Node node(/*program=*/true);
  node.Run({0});
  node.Pass(kLease - absl::Seconds(1));
  node.Prepare(2);
  EXPECT_THAT(node.Ticking(absl::Seconds(1)), ElementsAre("ladder 0"));
}

TEST(NodeFence, ProgramBegins_WhenTheNodeIsClear) {
  Node node(/*program=*/true);
  node.ClearByHand();
  node.Open();
  EXPECT_THAT(node.Begin(1, {0}), ElementsAre("clear@1"));
  EXPECT_THAT(node.Cleared(1), ElementsAre("spawn 0 as 0"));
  node.Spawned(0);
  EXPECT_THAT(node.Begin(2, {0}), ElementsAre("ladder 0"));
  EXPECT_THAT(node.Ended(0, 15), ElementsAre("exited@1 0 killed", "sweep 0", "clear@2"));
  EXPECT_THAT(node.Cleared(1), IsEmpty());  // of an older one
  EXPECT_THAT(node.Cleared(2, "process 7"), IsEmpty());
  EXPECT_THAT(node.After(absl::Milliseconds(100)), ElementsAre("clear@2"));
  EXPECT_THAT(node.Cleared(2), ElementsAre("spawn 0 as 0"));
  EXPECT_THAT(node.Cleared(2), IsEmpty());  // a repeat
  EXPECT_THAT(node.After(absl::Milliseconds(100)), IsEmpty());
}

TEST(NodeFence, NodeThatCannotBeCleared_IsToldAndBegunAfterSomeSeconds) {
  Node node(/*program=*/true);
  node.ClearByHand();
  node.Open();
  node.Begin(1, {0});
  EXPECT_THAT(node.Cleared(1, "process 7"), IsEmpty());
  node.Pass(absl::Seconds(5));
  EXPECT_THAT(node.After(absl::ZeroDuration()), Contains("clear@1"));
  EXPECT_THAT(node.Cleared(1, "process 7 (sleep)"), ElementsAre("report@1 0", "spawn 0 as 0"));
  EXPECT_THAT(node.reported().notice().text(), HasSubstr("process 7 (sleep)"));
  EXPECT_TRUE(node.reported().notice().warning());
}

TEST(NodeFence, StopBeforeTheNodeIsClear_BeginsNothing) {
  Node node(/*program=*/true);
  node.ClearByHand();
  node.Open();
  node.Begin(1, {0});
  node.Stop(1, false);
  EXPECT_THAT(node.Cleared(1), IsEmpty());
  EXPECT_THAT(node.After(absl::Milliseconds(100)), IsEmpty());
}

TEST(NodeFence, SpawnThatFailedForWantOfTheNodes_IsReportedAsThat) {
  Node node(/*program=*/true);
  node.Open();
  node.Begin(1, {0});
  node.Step(WorkerSpawnFailed{Slot(0), 126, "no descriptor left", /*node_lacked=*/true});
  EXPECT_TRUE(node.exited().node_lacked());
  EXPECT_EQ(node.exited().reason(), "no descriptor left");
}

}  // namespace
}  // namespace dsrun::agent
