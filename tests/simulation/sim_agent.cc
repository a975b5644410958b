#include "tests/simulation/sim_agent.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace dsrun::simulation {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(250);
constexpr absl::Duration kBeat = absl::Milliseconds(500);
constexpr absl::Duration kStalledAfter = absl::Seconds(3);

}  // namespace

SimAgent::SimAgent(World* world, NodeId node, Sabotage sabotage, Doors doors)
    : world_(world),
      node_(node),
      sabotage_(sabotage),
      doors_(std::move(doors)),
      slowness_(world->luck.Chance(0.2) ? 5 : 1),
      skew_(absl::Milliseconds(world->luck.Between(-1'000'000, 1'000'000'000))),
      core_({.incarnation = Incarnation(world->luck.Next() | 1), .inventory = {}}) {
  TickLater();
}

void SimAgent::TickLater() {
  world_->queue.After(kTick, [this] {
    if (!alive()) return;
    if (!stopped()) Feed(agent::Tick{});
    if (alive()) TickLater();
  });
}

void SimAgent::FromCoordinator(const proto::CoordinatorMessage& message) {
  Feed(agent::CoordinatorReceived{message});
}

void SimAgent::StreamGone(const std::string& why) {
  Deliver([this, why] { Feed(agent::CoordinatorGone{why}); });
}

void SimAgent::Feed(const agent::NodeEvent& event) {
  if (!alive()) return;
  for (const agent::NodeAction& action : core_.Step(Clock(), event)) {
    Perform(action);
    if (!alive()) return;
  }
}

void SimAgent::Perform(const agent::NodeAction& action) {
  if (const auto* spawn = std::get_if<agent::SpawnWorker>(&action)) return Spawn(*spawn);
  if (const auto* kill = std::get_if<agent::KillWorker>(&action)) {
    if (Child* child = ChildIn(kill->slot)) End(child, 0, 9);
    return;
  }
  if (const auto* inspect = std::get_if<agent::InspectWorker>(&action)) {
    const Slot slot = inspect->slot;
    const Child* child = ChildIn(slot);
    const char state = child == nullptr ? '?' : child->worker->stopped() ? 'T' : 'S';
    world_->queue.After(absl::ZeroDuration(), [this, slot, state] {
      Deliver([this, slot, state] { Feed(agent::WorkerInspected{slot, state, ""}); });
    });
    return;
  }
  if (const auto* reserve = std::get_if<agent::ReservePort>(&action)) {
    const agent::PortReserved reserved{reserve->generation, ++port_, ""};
    world_->queue.After(absl::ZeroDuration(),
                        [this, reserved] { Deliver([this, reserved] { Feed(reserved); }); });
    return;
  }
  if (const auto* clear = std::get_if<agent::ClearNode>(&action)) {
    const agent::NodeCleared cleared{clear->generation, ""};
    world_->queue.After(absl::ZeroDuration(),
                        [this, cleared] { Deliver([this, cleared] { Feed(cleared); }); });
    return;
  }
  if (const auto* ladder = std::get_if<agent::StopLadder>(&action)) return Ladder(*ladder);
  if (const auto* send = std::get_if<agent::SendToCoordinator>(&action)) {
    return doors_.to_coordinator(send->message);
  }
  if (const auto* send = std::get_if<agent::SendToWorker>(&action)) {
    return ToWorker(send->slot, send->message);
  }
  if (const auto* over = std::get_if<agent::JobOver>(&action)) {
    world_->Trace("node ", node_.value(), ": job over: ", over->reason);
    if (!LiveWorkers().empty()) world_->Violated("an agent is over with a live worker");
    Die();
    doors_.over();
  }
}

SimAgent::Child* SimAgent::ChildIn(Slot slot) {
  const auto found = by_slot_.find(slot);
  return found == by_slot_.end() || !found->second->live ? nullptr : found->second;
}

void SimAgent::Spawn(const agent::SpawnWorker& action) {
  if (ChildIn(action.slot) != nullptr) return world_->Violated("two processes in one slot");
  auto owned = std::make_unique<Child>();
  Child* child = owned.get();
  children_.push_back(std::move(owned));
  by_slot_[action.slot] = child;
  const uint64_t uid = world_->luck.Next() >> 16 | 1;
  SimWorker::Doors doors;
  doors.to_agent = [this, child](proto::WorkerMessage message) {
    FromWorker(child, std::move(message));
  };
  doors.exit = [this, child](int exit_code) { End(child, exit_code, 0); };
  doors.fabric = doors_.fabric;
  child->worker = std::make_unique<SimWorker>(world_, WorkerId{node_, action.slot}, uid, sabotage_,
                                              std::move(doors));
  if (world_->scenario.program) child->program_generation = action.plan.generation();
  world_->Trace("node ", node_.value(), ": spawns slot ", action.slot.value(), " for generation ",
                action.plan.generation());
  const auto pid = static_cast<int32_t>(children_.size());
  world_->queue.After(world_->luck.Millis(1, 5), [this, slot = action.slot, pid] {
    Deliver([this, slot, pid] { Feed(agent::WorkerSpawned{slot, pid}); });
  });
  child->wire_free = world_->now() + absl::Milliseconds(6);
  if (world_->scenario.program) {
    BootProgram(child);
  } else {
    Boot(child);
  }
  doors_.worker_spawned();
  doors_.maybe_fault("spawn");
}

void SimAgent::Boot(Child* child) {
  world_->queue.After(world_->luck.Millis(10, 60) * slowness_, [this, child] {
    child->worker->Deliver([this, child] {
      world_->queue.At(OnWire(child), [this, child] {
        Deliver([this, child] {
          Feed(agent::WorkerHello{child->worker->place().slot, Incarnation(child->worker->uid())});
        });
      });
      Beat(child);
    });
  });
}

void SimAgent::BootProgram(Child* child) {
  // Some live longer than a lease: only then does it matter who waits for whom.
  const int64_t longest = world_->luck.Chance(0.5) ? 3'000 : 90'000;
  world_->queue.After(world_->luck.Millis(50, longest), [this, child] {
    child->worker->Deliver([this, child] { End(child, 0, 0); });
  });
}

void SimAgent::Beat(Child* child) {
  world_->queue.After(kBeat, [this, child] {
    if (!child->live || !alive()) return;
    if (!child->worker->stopped()) {
      proto::WorkerMessage beat;
      beat.set_incarnation(child->worker->uid());
      beat.set_generation(child->worker->generation());
      *beat.mutable_beat() = child->worker->CurrentBeat();
      FromWorker(child, std::move(beat));
    }
    Beat(child);
  });
}

absl::Duration SimAgent::OnWire(Child* child) {
  child->wire_free =
      std::max(child->wire_free, world_->now() + world_->luck.Millis(0, 3) * slowness_);
  return child->wire_free;
}

void SimAgent::FromWorker(Child* child, proto::WorkerMessage message) {
  world_->queue.At(OnWire(child), [this, child, message = std::move(message)] {
    Deliver([this, child, message] {
      Feed(agent::WorkerReceived{child->worker->place().slot, message});
    });
    doors_.maybe_fault("worker to agent");
  });
}

void SimAgent::ToWorker(Slot slot, const proto::HostMessage& message) {
  Child* child = ChildIn(slot);
  if (child == nullptr) return;
  world_->queue.At(OnWire(child), [this, child, message] {
    child->worker->Deliver([child, message] { child->worker->OnHost(message); });
    doors_.maybe_fault("agent to worker");
  });
}

void SimAgent::End(Child* child, int exit_code, int signal) {
  if (!child->live) return;
  child->live = false;
  world_->Trace("node ", node_.value(), ": slot ", child->worker->place().slot.value(),
                signal != 0 ? " dies by signal " : " exits with ",
                signal != 0 ? signal : exit_code);
  child->worker->Die();
  child->worker->Died();
  doors_.worker_died(*child->worker);
  const Slot slot = child->worker->place().slot;
  // What it had sent is read before its end is reported: the session is drained first.
  const absl::Duration reaped = std::max(OnWire(child), world_->now() + absl::Milliseconds(6));
  if (world_->luck.Chance(0.5) && !world_->scenario.program) {
    const Incarnation incarnation(child->worker->uid());
    world_->queue.At(child->wire_free, [this, slot, incarnation] {
      Deliver([this, slot, incarnation] { Feed(agent::WorkerSessionClosed{slot, incarnation}); });
    });
  }
  const absl::Duration died = world_->now();
  world_->queue.At(reaped, [this, slot, exit_code, signal, died] {
    Deliver([this, slot, exit_code, signal, died] {
      agent::WorkerEnded ended;
      ended.slot = slot;
      ended.exit_code = exit_code;
      ended.term_signal = signal;
      // The truth, which no decision about two nodes is made from: see CheckRootCauses.
      ended.wall_time = absl::UnixEpoch() + died;
      ended.steady_time = died + skew_;
      Feed(ended);
    });
  });
}

// A program may leave at TERM, or sit it out until KILL.
void SimAgent::Ladder(const agent::StopLadder& ladder) {
  for (const Slot slot : ladder.slots) {
    Child* child = ChildIn(slot);
    if (child == nullptr) continue;
    if (world_->luck.Chance(0.7)) {
      world_->queue.After(world_->luck.Millis(1, 2000), [this, child] {
        child->worker->Deliver([this, child] { End(child, 0, 15); });
      });
    }
    world_->queue.After(ladder.grace, [this, child] {
      if (alive()) End(child, 0, 9);
    });
  }
}

void SimAgent::Kill() {
  if (!alive()) return;
  world_->Trace("node ", node_.value(), ": agent dies");
  Die();
  for (const auto& child : children_) End(child.get(), 0, 9);
  doors_.over();
}

void SimAgent::StopFor(absl::Duration how_long) {
  if (!alive() || stopped()) return;
  world_->Trace("node ", node_.value(), ": agent stopped for ", absl::FormatDuration(how_long));
  Stop();
  if (how_long >= kStalledAfter) {
    world_->queue.After(kStalledAfter, [this] {
      if (stopped()) Kill();
    });
  } else {
    world_->queue.After(how_long, [this] { Wake(); });
  }
}

void SimAgent::AskToStop(int signal) {
  if (!alive()) return;
  world_->Trace("node ", node_.value(), ": agent gets signal ", signal);
  Deliver([this, signal] { Feed(agent::AskedToStop{signal}); });
}

std::vector<SimWorker*> SimAgent::LiveWorkers() const {
  std::vector<SimWorker*> live;
  for (const auto& child : children_) {
    if (child->live) live.push_back(child->worker.get());
  }
  return live;
}

std::vector<int64_t> SimAgent::ProgramGenerations() const {
  std::vector<int64_t> generations;
  for (const auto& child : children_) {
    if (child->live) generations.push_back(child->program_generation);
  }
  return generations;
}

void SimAgent::KillWorkerProcess(SimWorker* worker, int signal) {
  for (const auto& child : children_) {
    if (child->worker.get() == worker) End(child.get(), 0, signal);
  }
}

void SimAgent::SpinWorker(SimWorker* worker) {
  world_->Trace("node ", node_.value(), ": slot ", worker->place().slot.value(), " spins");
  worker->Spin();
}

void SimAgent::StopWorkerFor(SimWorker* worker, absl::Duration how_long) {
  world_->Trace("node ", node_.value(), ": slot ", worker->place().slot.value(), " stopped for ",
                absl::FormatDuration(how_long));
  worker->Stop();
  world_->queue.After(how_long, [worker] { worker->Wake(); });
}

}  // namespace dsrun::simulation
