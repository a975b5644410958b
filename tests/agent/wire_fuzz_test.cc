// Whatever a coordinator or a worker sends, the agent's core goes on: no invariant breaks, only
// slots of the job are filled, every process that it asked for is accounted for, and EndJob still
// ends the job. Played from a seed that is printed (SEED gives it back).

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "agent/node_core.h"
#include "tests/support/random_messages.h"

namespace dsrun::agent {
namespace {

constexpr int kWalks = 1500;
constexpr int kSteps = 80;
constexpr int kSlots = 3;  // numbers 0 to 2

proto::CoordinatorMessage Open(RandomMessages& random, bool train) {
  proto::CoordinatorMessage message;
  message.set_job_id("the-job");
  proto::JobSpec& job = *message.mutable_open()->mutable_job();
  if (random.OneIn(2)) random.Fill(*job.mutable_limits());
  job.set_job_id("the-job");
  for (int slot = 0; slot < kSlots; ++slot) {
    if (slot == 0) job.add_nodes()->set_host("here");
    job.mutable_nodes(0)->add_slots(slot);
  }
  if (train) {
    job.mutable_train();
  } else {
    job.mutable_program()->set_executable("/bin/true");
  }
  return message;
}

class Walk {
 public:
  Walk(RandomMessages& random, bool train)
      : random_(random), core_({.incarnation = Incarnation(kIncarnation), .inventory = {}}) {
    Feed(CoordinatorReceived{Open(random, train)});
  }

  void Play() {
    for (int i = 0; i < kSteps && !core_.over(); ++i) Feed(Next());
    proto::CoordinatorMessage end;
    end.set_job_id("the-job");
    end.set_generation(core_.generation().value());
    end.mutable_end_job();
    Feed(CoordinatorReceived{end});
    // The ladder and the kills do their work: every process ends.
    while (!alive_.empty()) EndProcess(alive_.begin()->first);
    EXPECT_TRUE(core_.over());
  }

  int spawned() const { return spawned_; }

 private:
  NodeEvent Next() {
    now_ += absl::Milliseconds(random_.Below(random_.OneIn(8) ? 4000 : 100));
    const uint32_t what = random_.Below(100);
    if (what < 15) return Tick{};
    if (what < 16 && random_.OneIn(4)) {
      return random_.OneIn(2) ? NodeEvent(CoordinatorGone{random_.Text()}) : KeeperGone{};
    }
    if (what < 17 && random_.OneIn(4)) return AskedToStop{random_.OneIn(2) ? 15 : 10};
    if (what < 40) return WorkerReceived{AnySlot(), HostileWorker()};
    if (what < 50) return WorkerHello{AnySlot(), Incarnation(1 + random_.Below(3))};
    if (what < 55) return WorkerSessionClosed{AnySlot(), Incarnation(1 + random_.Below(3))};
    if (what < 65 && !alive_.empty()) {
      EndProcess(alive_.begin()->first);
      return Tick{};
    }
    return CoordinatorReceived{HostileCoordinator()};
  }

  Slot AnySlot() { return Slot(static_cast<int32_t>(random_.Below(kSlots))); }

  proto::CoordinatorMessage HostileCoordinator() {
    proto::CoordinatorMessage message;
    random_.Fill(message);
    if (!random_.OneIn(4)) {  // one that is not dropped at the door
      message.set_job_id("the-job");
      message.set_incarnation(random_.OneIn(2) ? kIncarnation : 0);
      const int64_t newest = core_.generation().value();  // a hostile one may be the highest
      message.set_generation(newest < INT64_MAX ? newest + random_.Below(2) : newest);
      if (message.has_end_job()) message.mutable_heartbeat();  // the end comes at the end
      // One from any other time ends a program's lease.
      if (message.has_heartbeat()) message.mutable_heartbeat()->clear_sent();
      if (random_.OneIn(4)) message.mutable_begin();
      if (message.has_begin()) MakeSense(*message.mutable_begin()->mutable_plan());
    }
    proto::CoordinatorMessage spoilt;
    if (random_.OneIn(6) && spoilt.ParseFromString(random_.Spoil(message.SerializeAsString()))) {
      return spoilt;
    }
    return message;
  }

  // Mostly: members in slots that there are, on this node and another, in the order of ranks; at
  // times one more, which may be a member already or come too late.
  void MakeSense(proto::GenerationPlan& plan) {
    while (plan.members_size() < 3) plan.add_members();
    if (random_.OneIn(4)) return;
    std::set<std::pair<int32_t, int32_t>> places;
    const auto place = [this] {
      return std::pair(static_cast<int32_t>(random_.Below(2)),
                       static_cast<int32_t>(random_.Below(kSlots)));
    };
    while (places.size() < 3) places.insert(place());
    std::vector<std::pair<int32_t, int32_t>> members(places.begin(), places.end());
    if (random_.OneIn(4)) members.push_back(place());
    plan.clear_mesh();
    plan.clear_members();
    for (const auto& [node, slot] : members) {
      proto::Member& member = *plan.add_members();
      member.set_node(node);
      member.set_slot(slot);
    }
  }

  proto::WorkerMessage HostileWorker() {
    proto::WorkerMessage message;
    random_.Fill(message);
    if (!random_.OneIn(4)) {
      message.set_incarnation(1 + random_.Below(3));
      message.set_generation(core_.generation().value());
    }
    return message;
  }

  void EndProcess(Slot slot) {
    alive_.erase(slot);
    WorkerEnded ended;
    ended.slot = slot;
    ended.exit_code = static_cast<int32_t>(random_.Below(3));
    Feed(ended);
  }

  void Feed(const NodeEvent& first) {
    std::deque<NodeEvent> waiting = {first};
    while (!waiting.empty()) {
      const NodeEvent event = std::move(waiting.front());
      waiting.pop_front();
      for (const NodeAction& action : core_.Step(now_, event)) {
        if (const auto* reserve = std::get_if<ReservePort>(&action)) {
          waiting.push_back(PortReserved{reserve->generation,
                                         static_cast<int32_t>(random_.Below(70000)),
                                         random_.OneIn(4) ? random_.Text() : ""});
        }
        if (const auto* clear = std::get_if<ClearNode>(&action)) {
          EXPECT_TRUE(alive_.empty()) << "cleared with live ranks";
          waiting.push_back(NodeCleared{clear->generation, random_.OneIn(4) ? random_.Text() : ""});
        }
        const auto* spawn = std::get_if<SpawnWorker>(&action);
        if (spawn == nullptr) continue;
        CheckSpawn(*spawn);
        if (random_.OneIn(10)) {
          waiting.push_back(WorkerSpawnFailed{spawn->slot, 126, "no"});
        } else {
          alive_[spawn->slot] = ++spawned_;
          waiting.push_back(WorkerSpawned{spawn->slot, spawned_});
        }
      }
    }
  }

  void CheckSpawn(const SpawnWorker& spawn) {
    EXPECT_GE(spawn.slot.value(), 0);
    EXPECT_LT(spawn.slot.value(), kSlots) << "not a slot of this job's node";
    EXPECT_FALSE(alive_.contains(spawn.slot)) << "slot " << spawn.slot << " is not empty";
    ASSERT_LT(spawn.rank.value(), spawn.plan.members_size());
  }

  static constexpr uint64_t kIncarnation = 77;

  RandomMessages& random_;
  NodeCore core_;
  absl::Duration now_ = absl::Seconds(1);
  int spawned_ = 0;
  std::map<Slot, int> alive_;
};

TEST(AgentWireFuzz, AnyMessagesFromCoordinatorAndWorkers_KeepEveryInvariantAndTheJobEnds) {
  RandomMessages random(TestSeed());
  random.SetWords({"the-job", "here"});
  int spawned = 0;
  for (int i = 0; i < kWalks && !::testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE("walk " + std::to_string(i));
    Walk walk(random, /*train=*/i % 2 == 0);
    walk.Play();
    spawned += walk.spawned();
  }
  EXPECT_GT(spawned, kWalks) << "the walks hardly began a generation: not worth much";
}

}  // namespace
}  // namespace dsrun::agent
