// When all of a core is looked at: after every event of a small job, and in a large one at every
// milestone and often enough between two of them.

#include "launcher/coordinator/core_sampling.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace dsrun::launcher {
namespace {

// A program's nodes of one slot each; its ranks start one after the other, which changes no
// milestone until the last of them runs. Whether it is due after each of them.
std::vector<bool> DueWhileRanksStart(int nodes) {
  CoordinatorConfig config;
  config.is_train = false;
  for (int node = 0; node < nodes; ++node) {
    config.nodes.push_back({"host-" + std::to_string(node), {Slot(0)}});
  }
  Coordinator core(config);
  CoreSampling sampling;
  absl::Duration now;
  const auto hear = [&](int node, proto::AgentMessage message) {
    message.set_generation(core.generation().value());
    core.Step(now += absl::Microseconds(1), AgentSpoke{NodeId(node), std::move(message)});
    return sampling.Due(core);
  };
  proto::AgentMessage message;
  core.Step(now, Start{});
  EXPECT_TRUE(sampling.Due(core)) << "another state";
  message.mutable_opened();
  for (int node = 0; node < nodes; ++node) {
    EXPECT_TRUE(hear(node, message)) << "another member, node " << node;
  }
  message.mutable_prepared();
  for (int node = 0; node + 1 < nodes; ++node) hear(node, message);
  EXPECT_TRUE(hear(nodes - 1, message)) << "another plan";
  message.mutable_worker_started()->set_slot(0);
  std::vector<bool> due;
  for (int node = 0; node < nodes; ++node) due.push_back(hear(node, message));
  EXPECT_EQ(core.state(), Coordinator::State::kRunning);
  EXPECT_TRUE(due.back()) << "another state";
  return due;
}

TEST(CoreSampling, OfASmallJob_IsDueAfterEveryEvent) {
  for (const bool due : DueWhileRanksStart(32)) EXPECT_TRUE(due);
}

TEST(CoreSampling, OfALargeJob_IsDueAfterAsManyEventsAsAreWorthALook) {
  constexpr int kNodes = 400;  // and as many ranks
  constexpr int kMostApart = 2 * kNodes / static_cast<int>(CoreSampling::kThingsAnEvent);
  int looks = 0;
  int apart = 0;
  for (const bool due : DueWhileRanksStart(kNodes)) {
    apart = due ? 0 : apart + 1;
    looks += due ? 1 : 0;
    EXPECT_LE(apart, kMostApart);
  }
  EXPECT_LE(looks, kNodes / kMostApart + 1);
}

}  // namespace
}  // namespace dsrun::launcher
