// What goes wrong in a simulated cluster, and what must be true at its end.

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "tests/launcher/coordinator/story_player.h"
#include "tests/launcher/coordinator/story_writer.h"
#include "tests/simulation/cluster.h"

namespace dsrun::simulation {
namespace {

// After the end: lease, its grace, and the time an agent's tick takes.
constexpr absl::Duration kAfterLife = absl::Seconds(30 + 15 + 15);

}  // namespace

void Cluster::MaybeFault(const std::string& where) {
  if (faults_ >= world_.scenario.faults || end_ || coordinator_killed_) return;
  if (!world_.luck.Chance(world_.scenario.fault_chance)) return;
  ++faults_;
  world_.Trace("fault at a delivery from ", where);
  // After the delivery in progress, not inside of it.
  world_.queue.After(absl::ZeroDuration(), [this] { Fault(); });
}

bool Cluster::MayLoseNode() const {
  if (!world_.scenario.spare_last_node) return true;
  int left = 0;
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (agents_[i]->alive() && !agents_[i]->stopped() && streams_[i].up &&
        streams_[i].stalled_until <= world_.now()) {
      ++left;
    }
  }
  return left > 1;
}

void Cluster::Fault() {
  if (end_ || coordinator_killed_) return;
  const auto index = static_cast<size_t>(world_.luck.Below(static_cast<int64_t>(agents_.size())));
  SimAgent* agent = agents_[index].get();
  const std::vector<SimWorker*> workers = agent->LiveWorkers();
  SimWorker* worker =
      workers.empty()
          ? nullptr
          : workers[static_cast<size_t>(world_.luck.Below(static_cast<int64_t>(workers.size())))];
  // Pauses of a node that shall survive must not add up to a silence that it is given up for.
  const bool spared = !MayLoseNode();
  const bool tired = spared && world_.now() - streams_[index].heard_at > absl::Milliseconds(700);
  const int64_t kind = world_.luck.Below(23);
  if (kind < 8) {
    if (worker == nullptr) return;
    own_doings_ += kind < 6 ? 0 : 1;
    agent->KillWorkerProcess(worker, kind < 6 ? 9 : 11);
  } else if (kind < 11) {
    if (worker != nullptr) agent->StopWorkerFor(worker, world_.luck.Millis(50, 6000));
  } else if (kind < 13) {
    if (MayLoseNode()) agent->Kill();
  } else if (kind < 15) {
    const absl::Duration pause = world_.luck.Millis(50, spared ? 1500 : 6000);
    if (!tired) agent->StopFor(pause);
  } else if (kind < 16) {
    if (MayLoseNode()) Break(agent->node(), "connection reset");
  } else if (kind < 18) {
    // A partition: nothing arrives for a while, either way; then all of it, late.
    const absl::Duration stall = world_.luck.Millis(20, spared ? 1500 : 60000);
    if (tired) return;
    absl::Duration& until = streams_[index].stalled_until;
    until = std::max(until, world_.now() + stall);
    world_.Trace("stream of node ", index, " stalls until ", absl::FormatDuration(until));
  } else if (kind == 22) {
    if (worker != nullptr && !tired) FailTwice(index, worker);
  } else if (kind == 21) {
    if (worker == nullptr || world_.scenario.program || worker->spins()) return;
    ++spins_;
    own_doings_ += 2;
    agent->SpinWorker(worker);
  } else if (kind == 18) {
    if (!fabrics_.empty()) fabrics_.back().fabric->Break();
  } else if (!coordinator_process_.stopped()) {
    const absl::Duration pause = world_.luck.Millis(50, 8000);
    world_.Trace("the coordinator is stopped for ", absl::FormatDuration(pause));
    coordinator_process_.Stop();
    world_.queue.After(pause, [this] {
      for (Stream& stream : streams_) stream.heard_at = world_.now() + absl::Seconds(1);
      coordinator_process_.Wake();
    });
  }
}

// A worker dies, and a moment later one on another node, as a consequence would; but the first
// node's messages are late, so the second is heard of first.
void Cluster::FailTwice(size_t index, SimWorker* worker) {
  const size_t other = (index + 1) % agents_.size();
  SimAgent* const later = agents_[other].get();
  if (other == index || later->LiveWorkers().empty()) return;
  ++faults_;
  absl::Duration& until = streams_[index].stalled_until;
  until = std::max(until, world_.now() + world_.luck.Millis(20, 400));
  world_.Trace("stream of node ", index, " stalls until ", absl::FormatDuration(until));
  own_doings_ += 2;
  agents_[index]->KillWorkerProcess(worker, 11);
  world_.queue.After(world_.luck.Millis(2, 100), [later] {
    if (const std::vector<SimWorker*> workers = later->LiveWorkers(); !workers.empty()) {
      later->KillWorkerProcess(workers.front(), 6);
    }
  });
}

void Cluster::OperatorStopLater() {
  world_.queue.After(world_.luck.Millis(0, 3000), [this] {
    if (end_ || coordinator_killed_) return;
    ++operator_stops_;
    world_.Trace("Ctrl-C");
    // A scheduler's signal reaches everybody, in any order.
    if (!world_.scenario.program && world_.luck.Chance(0.5)) {
      for (const auto& agent : agents_) {
        world_.queue.After(world_.luck.Millis(0, 20), [raw = agent.get()] { raw->AskToStop(15); });
      }
    }
    coordinator_process_.Deliver([this, first = operator_stops_ == 1] {
      if (first && !end_) {
        const launcher::Coordinator::State state = coordinator_->state();
        had_stepped_ = stepped_;
        was_recovering_ = stepped_ && (state == launcher::Coordinator::State::kPreparing ||
                                       state == launcher::Coordinator::State::kStarting);
      }
      Feed(launcher::OperatorStop{});
    });
    if (operator_stops_ < 3 && world_.luck.Chance(0.4)) OperatorStopLater();
  });
}

// A silent node costs everybody their time: the limit of 3 s, and a few ticks.
void Cluster::CheckSilentNodesAreFenced() {
  const bool opened = coordinator_->generation().value() > 0;
  if (end_ || !opened) return;
  for (size_t i = 0; i < streams_.size(); ++i) {
    const Stream& stream = streams_[i];
    if (!stream.up || stream.fenced) continue;
    const absl::Duration silence = world_.now() - stream.heard_at;
    if (silence > absl::Milliseconds(3300)) {
      world_.Violated(absl::StrCat("node ", i, " has been silent for ",
                                   absl::FormatDuration(silence), " and is not fenced"));
    }
  }
}

// A worker that spins is killed after --progress-timeout; its agent's pauses are not held against
// it.
void Cluster::CheckSpinningWorkersAreKilled() {
  for (const auto& agent : agents_) {
    if (!agent->alive() || agent->stopped()) continue;
    for (const SimWorker* worker : agent->LiveWorkers()) {
      if (worker->stopped() || world_.now() - worker->stuck_since() < absl::Seconds(45)) continue;
      world_.Violated(absl::StrCat("node ", agent->node().value(), " slot ",
                                   worker->place().slot.value(), " has been spinning since ",
                                   absl::FormatDuration(worker->stuck_since())));
    }
  }
}

// A user's program fences nothing: nothing of a newer generation may live beside an older process.
void Cluster::CheckPrograms() {
  if (!world_.scenario.program) return;
  std::set<int64_t> generations;
  for (const auto& agent : agents_) {
    for (const int64_t generation : agent->ProgramGenerations()) generations.insert(generation);
  }
  if (generations.size() > 1) {
    world_.Violated(absl::StrCat("programs of generations ", *generations.begin(), " and ",
                                 *generations.rbegin(), " live at the same time"));
  }
}

// A worker that spins ends two generations: its peers' when they give it up, and the next one,
// which it never joins.
bool Cluster::Explained(int exit_code) const {
  const Scenario& scenario = world_.scenario;
  switch (exit_code) {
    case launcher::kExitOk:
      return true;
    case launcher::kExitCancelled:
      return operator_stops_ > 0;
    case launcher::kExitNoProgress:
      // Kills, stops, lost nodes and wires do not count, and there are too few for their own limit.
      static_assert(kMostFaults < launcher::kMostEndsFromOutside);
      return scenario.max_without_progress > 0 && own_doings_ >= scenario.max_without_progress;
    case launcher::kExitRestartsExhausted:
      return scenario.max_restarts < 1000 && faults_ + spins_ > scenario.max_restarts;
    case launcher::kExitUnreachable:
      return faults_ > 0 && coordinator_->generation().value() == 0;
    case launcher::kExitNoNodesLeft:
      return faults_ > 0 && !scenario.spare_last_node;
    default:
      // A program's own: killed with no restart left, or a node it cannot do without.
      return scenario.program && faults_ > 0;
  }
}

void Cluster::CheckEnd() {
  if (end_ && !Explained(end_->exit_code)) {
    return world_.Violated(absl::StrCat("exit code ", end_->exit_code, " (", end_->report.verdict,
                                        ") after ", faults_, " faults"));
  }
  if (end_ && end_->exit_code == launcher::kExitOk && !world_.scenario.program) {
    const auto [step, state] = world_.NewestCheckpoint();
    if (step != world_.scenario.steps ||
        state != world_.scenario.UndisturbedState(world_.scenario.steps)) {
      return world_.Violated(
          absl::StrCat("ended 0 with a checkpoint of step ", step, " of ", world_.scenario.steps));
    }
  }
  CheckStopped();
  CheckRootCauses();
  // What belongs to a generation that is over must not end the next one as well. Twice: a worker
  // that has just finished may be given a plan that it leaves without having read.
  const int restarts = coordinator_->CurrentReport(world_.now()).restarts;
  if (restarts > 2 * faults_) {
    return world_.Violated(absl::StrCat(restarts, " restarts after ", faults_, " faults"));
  }
  CheckReplay();
  // The launcher's process is gone now: whatever streams there are break.
  for (size_t i = 0; i < streams_.size(); ++i) {
    Break(NodeId(static_cast<int32_t>(i)), "the launcher has ended");
  }
  absl::Duration until = world_.now();
  for (const Stream& stream : streams_) until = std::max(until, stream.stalled_until);
  until += kAfterLife;
  while (world_.now() < until && world_.violation().empty() && world_.queue.RunNext()) {
  }
  if (world_.violation().empty()) CheckNothingLeft();
}

// One Ctrl-C in a train job that had made a step: what ended in order is saved, and what did not
// was kept from it by a failure.
void Cluster::CheckStopped() {
  if (!end_ || end_->exit_code != launcher::kExitCancelled || world_.scenario.program) return;
  const launcher::Report& report = end_->report;
  if (report.stopped_early) {
    const auto [step, state] = world_.NewestCheckpoint();
    // Beyond it: of an older generation, whose save was committed after this one had begun.
    if (step < report.final_step || state != world_.scenario.UndisturbedState(step)) {
      world_.Violated(absl::StrCat("stopped after step ", report.final_step,
                                   ", the newest checkpoint is of step ", step));
    }
    return;
  }
  if (operator_stops_ > 1 || !had_stepped_) return;
  const bool hindered = report.verdict.find("because") != std::string::npos ||
                        report.verdict.find("did not finish in time") != std::string::npos;
  if (!hindered) {
    world_.Violated(absl::StrCat("one Ctrl-C after a step, and no checkpoint: ", report.verdict));
  }
}

// Every node's clock has its own zero. Of the processes that ended by themselves in one incident,
// the cause is the one that really ended first, unless both moments are known too loosely to tell.
void Cluster::CheckRootCauses() {
  const auto by_itself = [](const launcher::Failure& failure) {
    return failure.kind == launcher::Failure::Kind::kWorkerExited && !failure.killed_by_agent;
  };
  const launcher::Report report = coordinator_->CurrentReport(world_.now());
  for (const launcher::Incident& incident : report.incidents) {
    const launcher::Failure& cause = incident.cause;
    if (!by_itself(cause)) continue;
    for (const launcher::Failure& other : incident.consequences) {
      if (!by_itself(other) || other.node == cause.node) continue;
      const absl::Duration later = *cause.wall_time - *other.wall_time;
      const bool known = cause.happened_at && other.happened_at;
      // Both ends of both intervals: as far apart as that, they cannot overlap.
      if (known && later > 2 * (cause.happened_within + other.happened_within)) {
        world_.Violated(absl::StrCat("node ", cause.node.value(),
                                     " is named as the cause, but node ", other.node.value(),
                                     " failed ", absl::FormatDuration(later), " before it"));
      }
      heard_in_the_wrong_order_ += cause.noticed_at > other.noticed_at ? 1 : 0;
    }
  }
}

void Cluster::CheckNothingLeft() {
  for (const auto& agent : agents_) {
    if (!agent->LiveWorkers().empty()) {
      world_.Violated(absl::StrCat("node ", agent->node().value(), " still has a process"));
    }
  }
}

void Cluster::CheckReplay() {
  launcher::Coordinator again(launcher::ConfigFromJob(job_));
  for (const auto& [now, event] : journal_) again.Step(now, event);
  if (again.Digest() == coordinator_->Digest()) return;
  world_.Violated(absl::StrCat("a replay gives another state:\n", again.DebugString(),
                               "instead of\n", coordinator_->DebugString()));
}

Outcome RunSeed(uint64_t seed, bool verbose, Sabotage sabotage,
                std::optional<double> restore_chance) {
  return Cluster(Scenario::FromSeed(seed), sabotage, verbose, restore_chance).Run();
}

std::string StoryOfSeed(uint64_t seed, Sabotage sabotage) {
  Cluster cluster(Scenario::FromSeed(seed), sabotage, /*verbose=*/false);
  cluster.KeepStory();
  const Outcome outcome = cluster.Run();
  const std::string violation = outcome.violation.empty() ? "everything held" : outcome.violation;
  return launcher::PlayStory(absl::StrCat(
      "# Simulated cluster, seed ", seed, ": ", absl::StrReplaceAll(violation, {{"\n", "\n# "}}),
      "\n# The run ended with ", launcher::DigestLine(cluster.coordinator()), "\n",
      cluster.story()->text(), "> digest\n"));
}

}  // namespace dsrun::simulation
