#include "tests/simulation/cluster.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/proto_duration.h"
#include "launcher/coordinator/describe.h"
#include "proto/snapshot.pb.h"
#include "tests/launcher/coordinator/twin.h"

namespace dsrun::simulation {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kHeartbeat = absl::Milliseconds(500);
// Longer than any lawful way to the end: a few join timeouts, leases and graces.
constexpr absl::Duration kPatience = absl::Minutes(40);

proto::JobSpec JobOf(const Scenario& scenario) {
  proto::JobSpec job;
  job.set_job_id("simulation");
  for (size_t i = 0; i < scenario.slots.size(); ++i) {
    proto::NodeSpec* node = job.add_nodes();
    node->set_host(absl::StrCat("node-", i));
    for (int slot = 0; slot < scenario.slots[i]; ++slot) node->add_slots(slot);
  }
  job.mutable_limits()->set_max_restarts(scenario.max_restarts);
  job.mutable_limits()->set_max_restarts_without_progress(scenario.max_without_progress);
  if (scenario.program) {
    job.mutable_program();
  } else {
    job.mutable_train()->set_micro_batch_size(1);
    job.mutable_train()->set_global_batch_size(scenario.blocks);
  }
  return job;
}

}  // namespace

Cluster::Cluster(const Scenario& scenario, Sabotage sabotage, bool verbose,
                 std::optional<double> restore_chance)
    : world_(scenario, verbose),
      job_(JobOf(scenario)),
      coordinator_(launcher::ConfigFromJob(job_)),
      streams_(scenario.slots.size()),
      sabotage_(sabotage),
      restore_chance_(restore_chance),
      restore_luck_(Mix(scenario.seed, 2)) {
  for (size_t i = 0; i < scenario.slots.size(); ++i) {
    const NodeId node(static_cast<int32_t>(i));
    SimAgent::Doors doors;
    doors.to_coordinator = [this, node](proto::AgentMessage message) {
      ToCoordinator(node, message);
    };
    doors.over = [this, node] { Break(node, "the agent is gone"); };
    doors.fabric = [this](const proto::ExchangeTable& table, int64_t generation) {
      return FabricOf(table, generation);
    };
    doors.worker_spawned = [this] { CheckPrograms(); };
    doors.worker_died = [this](const SimWorker& worker) { WorkerDied(worker); };
    doors.maybe_fault = [this](const std::string& where) { MaybeFault(where); };
    agents_.push_back(std::make_unique<SimAgent>(&world_, node, sabotage, std::move(doors)));
  }
}

Outcome Cluster::Run() {
  Feed(launcher::Start{});
  TickLater();
  HeartbeatLater();
  if (world_.scenario.operator_stop) OperatorStopLater();
  if (world_.scenario.kill_coordinator) {
    world_.queue.After(world_.luck.Millis(1, 3000), [this] { KillCoordinator(); });
  }
  while (!end_ && !coordinator_killed_ && world_.violation().empty()) {
    if (!world_.queue.RunNext()) world_.Violated("the cluster has come to rest, the job has not");
    if (world_.now() > kPatience) {
      world_.Violated(absl::StrCat("the job does not end:\n", coordinator_->DebugString()));
    }
  }
  if (world_.violation().empty()) CheckEnd();
  Outcome outcome;
  outcome.violation = world_.violation();
  outcome.exit_code = end_ ? end_->exit_code : -1;
  outcome.faults = faults_;
  outcome.spins = spins_;
  outcome.heard_in_the_wrong_order = heard_in_the_wrong_order_;
  outcome.generations = coordinator_->generation().value();
  const launcher::Report report = coordinator_->CurrentReport(world_.now());
  outcome.restarts = report.restarts;
  for (const Stream& stream : streams_) outcome.lost_nodes += stream.fenced ? 1 : 0;
  outcome.steps = world_.queue.steps();
  Transcribe(launcher::Describe(report));
  outcome.transcript = transcript_;
  outcome.restores = restores_;
  outcome.regrants = regrants_;
  outcome.late_commits = world_.late_commits;
  outcome.saved_after_recovery =
      operator_stops_ == 1 && was_recovering_ && report.stopped_early && report.final_step > 0;
  if (world_.verbose()) std::fputs(launcher::Describe(report).c_str(), stdout);
  return outcome;
}

// ---- The coordinator's shell

void Cluster::Feed(launcher::Event first) {
  if (end_ || coordinator_killed_) return;
  if (story_) story_->Add(world_.now(), first);
  std::deque<launcher::Event> queue = {std::move(first)};
  while (!queue.empty() && !end_) {
    const launcher::Event event = std::move(queue.front());
    queue.pop_front();
    MaybeRestore();
    const std::vector<launcher::Action> actions = coordinator_->Step(world_.now(), event);
    stepped_ |= std::holds_alternative<launcher::ProgressMade>(event);
    const bool durable = launcher::IsDurable(event);
    if (durable) journal_.emplace_back(world_.now(), event);
    if (world_.verbose() && (durable || !actions.empty())) {
      world_.Trace("coordinator hears: ", launcher::Describe(event));
    }
    const absl::Status invariants = coordinator_->CheckInvariants();
    if (!invariants.ok()) world_.Violated(std::string(invariants.message()));
    std::deque<launcher::Event> raised;
    for (const launcher::Action& action : actions) {
      if (world_.verbose()) world_.Trace("coordinator: ", launcher::Describe(action));
      if (restore_chance_) Transcribe(launcher::Exactly(action));
      if (const auto* raise = std::get_if<launcher::Raise>(&action)) {
        std::visit([&](const auto& e) { raised.push_back(e); }, raise->event);
      } else {
        Perform(action);
      }
    }
    queue.insert(queue.begin(), raised.begin(), raised.end());
  }
}

void Cluster::MaybeRestore() {
  if (!restore_luck_.Chance(restore_chance_.value_or(0))) return;
  std::string bytes = coordinator_->Snapshot();
  if (sabotage_ == Sabotage::kForgetsSuspects) {
    proto::CoordinatorSnapshot snapshot;
    snapshot.ParseFromString(bytes);
    snapshot.clear_suspects();
    bytes = snapshot.SerializeAsString();
  }
  absl::StatusOr<launcher::Coordinator> restored =
      launcher::Coordinator::Restore(coordinator_->config(), bytes);
  if (!restored.ok()) {
    world_.Violated(
        absl::StrCat("a snapshot cannot be restored: ", std::string(restored.status().message())));
    return;
  }
  coordinator_.emplace(*std::move(restored));
  ++restores_;
  world_.Trace("the coordinator is restored from its snapshot");
}

void Cluster::Transcribe(const std::string& text) {
  transcript_ = Mix(transcript_, std::hash<std::string>()(text));
}

// Every generation of a program has the port that node 0 reserved for it, and no other.
void Cluster::CheckMasterPort(const proto::GenerationPlan& plan) {
  if (!world_.scenario.program || plan.generation() <= planned_generation_) return;
  if (plan.master_port() <= master_port_) {
    world_.Violated(absl::StrCat("generation ", plan.generation(), " has the port ",
                                 plan.master_port(), " after ", master_port_));
  }
  master_port_ = plan.master_port();
  planned_generation_ = plan.generation();
}

void Cluster::Perform(const launcher::Action& action) {
  if (const auto* open = std::get_if<launcher::OpenAgent>(&action)) return OpenAgent(open->node);
  if (const auto* send = std::get_if<launcher::SendToAgent>(&action)) {
    const proto::CoordinatorMessage message = send->Message();
    const int64_t prepared = streams_[static_cast<size_t>(send->node.value())].prepared;
    if (message.has_begin() && message.generation() != prepared) {
      world_.Violated(absl::StrCat("node ", send->node.value(), " gets the plan of generation ",
                                   message.generation(), ", but acknowledged ", prepared));
    }
    CheckMasterPort(message.begin().plan());
    if (message.has_commit_save()) {
      const proto::SaveId& id = message.commit_save().commit().save();
      if (message.commit_save().commit().attempt() <= newest_attempt_) {
        world_.Violated("an attempt was given out twice");
      }
      newest_attempt_ = message.commit_save().commit().attempt();
      regrants_ += ++grants_[{id.step(), id.generation()}] > 1 ? 1 : 0;
    }
    return ToAgent(send->node, message);
  }
  if (const auto* fence = std::get_if<launcher::FenceNode>(&action)) return Fence(fence->node);
  if (const auto* end = std::get_if<launcher::EndJob>(&action)) {
    if (end_) world_.Violated("two EndJobs");
    end_ = *end;
  }
}

void Cluster::OpenAgent(NodeId node) {
  const auto index = static_cast<size_t>(node.value());
  world_.queue.After(world_.luck.Millis(5, 50), [this, node, index] {
    Stream& stream = streams_[index];
    if (stream.fenced) return;
    if (!agents_[index]->alive()) {
      coordinator_process_.Deliver([this, node] {
        Feed(launcher::AgentGone{node, absl::UnavailableError("connection refused")});
      });
      return;
    }
    stream.up = true;
    stream.heard_at = world_.now() + absl::Seconds(1);  // until it has answered
    proto::CoordinatorMessage open;
    open.set_job_id("simulation");
    *open.mutable_open()->mutable_job() = job_;
    open.mutable_open()->set_node(node.value());
    ToAgent(node, open);
  });
}

void Cluster::ToAgent(NodeId node, const proto::CoordinatorMessage& message) {
  const auto index = static_cast<size_t>(node.value());
  Stream& stream = streams_[index];
  if (!stream.up) return;
  stream.down_free = std::max({stream.down_free, world_.now() + Latency(), stream.stalled_until});
  world_.queue.At(stream.down_free, [this, index, life = stream.life, message] {
    if (!streams_[index].up || streams_[index].life != life) return;
    SimAgent* agent = agents_[index].get();
    agent->Deliver([agent, message] { agent->FromCoordinator(message); });
    // A repeat, at once or late.
    if (!message.has_heartbeat() && world_.luck.Chance(0.02)) {
      world_.queue.After(world_.luck.Millis(0, 300), [this, index, life, message] {
        if (!streams_[index].up || streams_[index].life != life) return;
        SimAgent* again = agents_[index].get();
        again->Deliver([again, message] { again->FromCoordinator(message); });
      });
    }
    MaybeFault("coordinator to agent");
  });
}

void Cluster::ToCoordinator(NodeId node, const proto::AgentMessage& message) {
  Stream& stream = streams_[static_cast<size_t>(node.value())];
  if (!stream.up) return;
  stream.up_free = std::max({stream.up_free, world_.now() + Latency(), stream.stalled_until});
  world_.queue.At(stream.up_free, [this, node, life = stream.life, message] {
    DeliverUp(node, life, message);
    if (!message.has_heartbeat() && world_.luck.Chance(0.02)) {
      world_.queue.After(world_.luck.Millis(0, 500),
                         [this, node, life, message] { DeliverUp(node, life, message); });
    }
    MaybeFault("agent to coordinator");
  });
}

void Cluster::DeliverUp(NodeId node, uint64_t life, const proto::AgentMessage& message) {
  coordinator_process_.Deliver([this, node, life, message] {
    Stream& stream = streams_[static_cast<size_t>(node.value())];
    // What had arrived before a break is still read; nothing after a fence.
    if (stream.fenced || stream.life != life) return;
    stream.heard = true;
    stream.heard_at = world_.now();
    if (message.has_prepared()) stream.prepared = std::max(stream.prepared, message.generation());
    if (message.has_heartbeat()) return clocks_.Heard(node, message.heartbeat(), world_.now());
    launcher::AgentSpoke spoke{node, message};
    clocks_.Correct(node, world_.now(), spoke.message);
    Feed(std::move(spoke));
  });
}

void Cluster::Break(NodeId node, const std::string& why) {
  const auto index = static_cast<size_t>(node.value());
  Stream& stream = streams_[index];
  if (!stream.up) return;
  world_.Trace("stream of node ", node.value(), " breaks: ", why);
  stream.up = false;
  agents_[index]->StreamGone(why);
  const absl::Duration noticed =
      std::max({stream.up_free, world_.now() + Latency(), stream.stalled_until});
  world_.queue.At(noticed, [this, node, index, why] {
    coordinator_process_.Deliver([this, node, index, why] {
      if (streams_[index].fenced) return;
      Feed(launcher::AgentGone{node, absl::UnavailableError(why)});
    });
  });
}

void Cluster::Fence(NodeId node) {
  const auto index = static_cast<size_t>(node.value());
  Stream& stream = streams_[index];
  stream.fenced = true;
  if (stream.up) {
    stream.up = false;
    const absl::Duration noticed = std::max(world_.now() + Latency(), stream.stalled_until);
    world_.queue.At(noticed, [this, index] { agents_[index]->StreamGone("fenced"); });
  }
  if (world_.scenario.own_agents) {
    world_.queue.After(absl::Milliseconds(1), [this, index] { agents_[index]->Kill(); });
  }
}

void Cluster::TickLater() {
  world_.queue.After(kTick, [this] {
    if (end_ || coordinator_killed_) return;
    if (!coordinator_process_.stopped()) {
      launcher::Tick tick;
      for (size_t i = 0; i < streams_.size(); ++i) {
        if (std::exchange(streams_[i].heard, false)) {
          tick.heard_from.push_back(NodeId(static_cast<int32_t>(i)));
        }
      }
      Feed(tick);
      CheckSilentNodesAreFenced();
      CheckSpinningWorkersAreKilled();
    }
    TickLater();
  });
}

void Cluster::HeartbeatLater() {
  world_.queue.After(kHeartbeat, [this] {
    if (end_ || coordinator_killed_) return;
    for (size_t i = 0; i < streams_.size() && !coordinator_process_.stopped(); ++i) {
      proto::CoordinatorMessage beat;
      beat.set_job_id("simulation");
      *beat.mutable_heartbeat()->mutable_sent() = ToProto(world_.now());
      ToAgent(NodeId(static_cast<int32_t>(i)), beat);
    }
    HeartbeatLater();
  });
}

void Cluster::KillCoordinator() {
  if (end_) return;
  world_.Trace("the coordinator is killed");
  coordinator_killed_ = true;
  coordinator_process_.Die();
  for (size_t i = 0; i < streams_.size(); ++i) {
    Break(NodeId(static_cast<int32_t>(i)), "the coordinator is gone");
  }
}

// ---- The wires between workers

std::shared_ptr<Fabric> Cluster::FabricOf(const proto::ExchangeTable& table, int64_t generation) {
  std::vector<uint64_t> uids;
  for (const std::string& value : table.values()) {
    uint64_t uid = 0;
    if (!absl::SimpleAtoi(value.c_str(), &uid)) world_.Violated("a table with a strange value");
    uids.push_back(uid);
  }
  for (const Wired& wired : fabrics_) {
    if (wired.generation != generation) continue;
    if (wired.uids != uids) {
      world_.Violated(absl::StrCat("two tables in generation ", generation));
    }
    return wired.fabric;
  }
  auto fabric = std::make_shared<Fabric>(&world_, generation, static_cast<int>(uids.size()));
  fabrics_.push_back({generation, uids, fabric});
  for (size_t rank = 0; rank < uids.size(); ++rank) {
    if (dead_[uids[rank]]) fabric->Leave(static_cast<int>(rank));
  }
  return fabric;
}

void Cluster::WorkerDied(const SimWorker& worker) {
  dead_[worker.uid()] = true;
  for (const Wired& wired : fabrics_) {
    for (size_t rank = 0; rank < wired.uids.size(); ++rank) {
      // Connections that it never took up are refused.
      if (wired.uids[rank] == worker.uid() && !wired.fabric->HasJoined(static_cast<int>(rank))) {
        wired.fabric->Leave(static_cast<int>(rank));
      }
    }
  }
}

}  // namespace dsrun::simulation
