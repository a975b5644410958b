// What an agent's core makes of a signal that asks for an end: the coordinator decides, and the
// node only where nobody has (agent/node_core.h).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/agent/scripted_node.h"

namespace dsrun::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kTerm = 15;
constexpr int kUsr1 = 10;

std::vector<std::string> Pass(Node& node, int64_t generation, int signal) {
  proto::CoordinatorMessage message = Node::Message(generation);
  message.mutable_pass_signal()->set_signal(signal);
  return node.Step(CoordinatorReceived{message});
}

TEST(NodeSignals, Engine_WorkersSaveAndStop_AndItIsToldOnce) {
  for (const int signal : {kTerm, kUsr1}) {
    Node node;
    node.Run({0, 1});
    EXPECT_THAT(node.Step(AskedToStop{signal}), ElementsAre("to 0: stop-save", "to 1: stop-save"));
    EXPECT_THAT(node.Step(AskedToStop{signal}), IsEmpty());
    EXPECT_THAT(node.Ticking(absl::Seconds(2)), ElementsAre("report@1 0"));
  }
}

TEST(NodeSignals, Engine_LaterGenerationsAreAskedToo) {
  Node node;
  node.Run({0});
  node.Step(AskedToStop{kTerm});
  node.Prepare(2);
  EXPECT_THAT(node.Begin(2, {0, 1}), ElementsAre("to 0: plan@2", "spawn 1 as 1"));
  node.Spawned(1);
  EXPECT_THAT(node.Hello(1),
              ElementsAre("started@2 1", "to 1: welcome", "to 1: plan@2", "to 1: stop-save"));
}

TEST(NodeSignals, TheCoordinatorHasDecided_NothingIsAdded) {
  Node train;
  train.Run({0});
  train.Stop(1, true);
  EXPECT_THAT(train.Step(AskedToStop{kTerm}), IsEmpty());
  EXPECT_THAT(train.Ticking(absl::Seconds(2)), IsEmpty());
  Node program(/*program=*/true);
  program.Run({0});
  EXPECT_THAT(program.Step(AskedToStop{kTerm}), IsEmpty());
  EXPECT_THAT(program.Stop(1, true), ElementsAre("ladder 0"));
  EXPECT_THAT(program.Ticking(absl::Seconds(2)), IsEmpty());
}

TEST(NodeSignals, Program_IfNobodyDecides_TheNodeLeavesWithTheLadder) {
  Node node(/*program=*/true);
  node.Run({0, 1});
  EXPECT_THAT(node.Step(AskedToStop{kTerm}), IsEmpty());
  EXPECT_THAT(node.Ticking(absl::Milliseconds(750)), IsEmpty());
  EXPECT_THAT(node.Ticking(absl::Milliseconds(250)), ElementsAre("report@1 0", "ladder 0 1"));
  EXPECT_THAT(node.Ended(0, kTerm), ElementsAre("exited@1 0 killed", "sweep 0"));
  EXPECT_THAT(node.Ended(1, kTerm),
              ElementsAre("exited@1 1 killed", "sweep 1", "sweep all", "abandoned"));
}

TEST(NodeSignals, Program_Usr1IsItsOwnBusiness) {
  Node node(/*program=*/true);
  node.Run({0});
  EXPECT_THAT(node.Step(AskedToStop{kUsr1}), IsEmpty());
  EXPECT_THAT(node.Ticking(absl::Seconds(2)), IsEmpty());
}

TEST(NodeSignals, PassSignal_ReachesTheRanksOfAProgram_AndNothingElse) {
  Node program(/*program=*/true);
  program.Run({0, 2});
  EXPECT_THAT(Pass(program, 1, kUsr1), ElementsAre("signal 10 0 2"));
  EXPECT_THAT(Pass(program, 0, kUsr1), IsEmpty());  // of an older generation
  EXPECT_THAT(Pass(program, 1, kTerm), IsEmpty());  // a stop is StopWorkers
  EXPECT_THAT(Pass(program, 1, 9), IsEmpty());
  Node train;
  train.Run({0});
  EXPECT_THAT(Pass(train, 1, kUsr1), IsEmpty());
}

}  // namespace
}  // namespace dsrun::agent
