// The coordinator's state to bytes and back. That no field is forgotten is seen by the twins of the
// tests (tests/launcher/coordinator/twin.h), which go on from a snapshot at every step, and by
// SnapshotTest.

#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/topology/plan_places.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/report_codec.h"

namespace dsrun::launcher {
namespace {

using Wire = proto::CoordinatorSnapshot;

Wire::State StateToWire(Coordinator::State state) {
  switch (state) {
    case Coordinator::State::kIdle:
      return Wire::IDLE;
    case Coordinator::State::kOpening:
      return Wire::OPENING;
    case Coordinator::State::kPreparing:
      return Wire::PREPARING;
    case Coordinator::State::kStarting:
      return Wire::STARTING;
    case Coordinator::State::kRunning:
      return Wire::RUNNING;
    case Coordinator::State::kDraining:
      return Wire::DRAINING;
    case Coordinator::State::kStopping:
      return Wire::STOPPING;
    case Coordinator::State::kEnding:
      return Wire::ENDING;
    case Coordinator::State::kEnded:
      return Wire::ENDED;
  }
  return Wire::STATE_UNSPECIFIED;
}

absl::StatusOr<Coordinator::State> StateFromWire(int state) {
  switch (state) {
    case Wire::IDLE:
      return Coordinator::State::kIdle;
    case Wire::OPENING:
      return Coordinator::State::kOpening;
    case Wire::PREPARING:
      return Coordinator::State::kPreparing;
    case Wire::STARTING:
      return Coordinator::State::kStarting;
    case Wire::RUNNING:
      return Coordinator::State::kRunning;
    case Wire::DRAINING:
      return Coordinator::State::kDraining;
    case Wire::STOPPING:
      return Coordinator::State::kStopping;
    case Wire::ENDING:
      return Coordinator::State::kEnding;
    case Wire::ENDED:
      return Coordinator::State::kEnded;
  }
  return absl::DataLossError(absl::StrCat("it is in an unknown state, number ", state));
}

template <typename Ids>
void PutIds(const Ids& ids, google::protobuf::RepeatedField<int32_t>* to) {
  for (const auto id : ids) to->Add(id.value());
}

// Every id below `limit`.
template <typename Id>
absl::Status GetIds(const google::protobuf::RepeatedField<int32_t>& from, int limit,
                    const char* what, std::set<Id>* ids) {
  for (const int32_t id : from) {
    if (id < 0 || id >= limit) {
      return absl::DataLossError(absl::StrCat(what, " ", id, ", but there are ", limit));
    }
    ids->insert(Id(id));
  }
  return absl::OkStatus();
}

template <typename Deadline>
void PutDeadline(const Deadline& from, Wire::Deadline* to) {
  if (from.is_set()) *to->mutable_at() = ToProto(from.at);
  to->set_number(from.number);
}

template <typename Deadline>
void GetDeadline(const Wire::Deadline& from, Deadline* to) {
  to->at = from.has_at() ? FromProto(from.at()) : absl::InfiniteDuration();
  to->number = from.number();
}

// The places of a plan: nodes that the job has, in the order of ranks.
absl::Status CheckPlan(const proto::GenerationPlan& plan, size_t nodes) {
  for (const proto::Member& member : plan.members()) {
    if (member.node() >= 0 && static_cast<size_t>(member.node()) < nodes) continue;
    return absl::DataLossError(
        absl::StrCat("its plan has a rank on node ", member.node(), ", the job has ", nodes));
  }
  if (plan.members_size() == 0) return absl::OkStatus();
  const absl::Status placed = PlacesOf(plan).status();
  return placed.ok() ? placed : absl::DataLossError(placed.message());
}

// What the code takes for granted about the story.
absl::Status CheckStory(const Report& report, Coordinator::State state, Generation generation) {
  if (report.generations.empty() == (generation.value() > 0)) {
    return absl::DataLossError(absl::StrCat("generation ", generation.value(), " is claimed, its ",
                                            "story has ", report.generations.size()));
  }
  if (state == Coordinator::State::kDraining && report.incidents.empty()) {
    return absl::DataLossError("ranks are drained, and its story has no incident");
  }
  return absl::OkStatus();
}
Wire ToWire(const CoordinatorState& s) {
  Wire to;
  to.set_schema_version(kSnapshotSchemaVersion);
  to.set_state(StateToWire(s.phase));
  to.set_generation(s.generation.value());
  *to.mutable_plan() = s.plan;
  *to.mutable_members() = s.members.Snapshot();
  PutIds(s.prepared, to.mutable_prepared());
  to.set_master_port(s.master_port);
  PutIds(s.joined, to.mutable_joined());
  PutIds(s.finished, to.mutable_finished());
  PutIds(s.exited, to.mutable_exited());
  PutIds(s.survivors, to.mutable_survivors());
  to.set_stopped_early(s.stopped_early);
  *to.mutable_rendezvous() = s.rendezvous.Snapshot();
  for (const auto& [rank, failure] : s.suspects.by_rank()) {
    Wire::Suspect* suspect = to.add_suspects();
    suspect->set_rank(rank.value());
    *suspect->mutable_failure() = ToSnapshot(failure);
  }
  PutDeadline(s.phase_deadline, to.mutable_phase_deadline());
  PutDeadline(s.cause_deadline, to.mutable_cause_deadline());
  to.set_restarts(s.restarts);
  for (const absl::Duration at : s.restarted_at) *to.add_restarted_at() = ToProto(at);
  to.set_failed_without_progress(s.failed_without_progress);
  to.set_ended_from_outside(s.ended_from_outside);
  to.set_progressed(s.progressed);
  to.set_first_step(s.first_step);
  to.set_high_step(s.high_step);
  *to.mutable_saves() = s.saves.Snapshot();
  to.set_newest_checkpoint_generation(s.newest_checkpoint.first);
  to.set_newest_checkpoint_step(s.newest_checkpoint.second);
  to.set_newest_manifest(s.newest_manifest);
  to.set_drain_for_lease(s.drain_for_lease);
  to.set_stops(s.stops);
  to.set_stop_waits(s.stop_waits);
  to.set_end_waits(s.end_waits);
  for (const auto& [rank, how] : s.stopped) {
    Wire::StoppedRank* stopped = to.add_stopped();
    stopped->set_rank(rank.value());
    stopped->set_how(how);
  }
  to.set_exit_code(s.exit_code);
  to.set_ended(s.ended);
  for (const auto& [node, memory] : s.memory) {
    Wire::Memory* of_node = to.add_memory();
    of_node->set_node(node.value());
    *of_node->mutable_memory() = memory;
  }
  to.set_memory_looks(s.memory_looks);
  PutIds(s.memory_unknown, to.mutable_memory_unknown());
  *to.mutable_report() = ToSnapshot(s.history.WholeReport());
  to.set_heard_step(s.heard_step);
  to.set_told_step(s.told_step);
  to.set_stacks_asked(s.stacks_asked);
  to.set_memory_told(s.memory_told);
  for (const auto& [rank, lines] : s.stacks) {
    Wire::Stack* stack = to.add_stacks();
    stack->set_rank(rank.value());
    for (const std::string& line : lines) stack->add_lines(line);
  }
  return to;
}

absl::StatusOr<CoordinatorState> FromWire(const CoordinatorConfig& config, const Wire& from) {
  const size_t nodes = config.nodes.size();
  CoordinatorState s(nodes);
  RETURN_IF_ERROR(CheckPlan(from.plan(), nodes));
  const int ranks = from.plan().members_size();
  ASSIGN_OR_RETURN(s.phase, StateFromWire(from.state()));
  s.generation = Generation(from.generation());
  s.plan = from.plan();
  ASSIGN_OR_RETURN(s.members, Membership::Restore(nodes, from.members()));
  RETURN_IF_ERROR(GetIds(from.prepared(), static_cast<int>(nodes), "prepared node", &s.prepared));
  s.master_port = from.master_port();
  RETURN_IF_ERROR(GetIds(from.joined(), ranks, "joined rank", &s.joined));
  RETURN_IF_ERROR(GetIds(from.finished(), ranks, "finished rank", &s.finished));
  RETURN_IF_ERROR(GetIds(from.exited(), ranks, "exited rank", &s.exited));
  RETURN_IF_ERROR(GetIds(from.survivors(), ranks, "surviving rank", &s.survivors));
  s.stopped_early = from.stopped_early();
  ASSIGN_OR_RETURN(s.rendezvous, RendezvousTable::Restore(ranks, from.rendezvous()));
  for (const Wire::Suspect& suspect : from.suspects()) {
    if (suspect.rank() < 0 || suspect.rank() >= ranks) {
      return absl::DataLossError(absl::StrCat("suspect ", suspect.rank(), " of ", ranks));
    }
    ASSIGN_OR_RETURN(Failure failure, FromSnapshot(suspect.failure()));
    s.suspects.Put(Rank(suspect.rank()), std::move(failure));
  }
  GetDeadline(from.phase_deadline(), &s.phase_deadline);
  GetDeadline(from.cause_deadline(), &s.cause_deadline);
  s.restarts = from.restarts();
  for (const auto& at : from.restarted_at()) s.restarted_at.push_back(FromProto(at));
  s.failed_without_progress = from.failed_without_progress();
  s.ended_from_outside = from.ended_from_outside();
  s.progressed = from.progressed();
  s.first_step = from.first_step();
  s.high_step = from.high_step();
  ASSIGN_OR_RETURN(s.saves, SaveLedger::Restore(nodes, from.saves()));
  s.newest_checkpoint = {from.newest_checkpoint_generation(), from.newest_checkpoint_step()};
  s.newest_manifest = from.newest_manifest();
  s.drain_for_lease = from.drain_for_lease();
  s.stops = from.stops();
  s.stop_waits = from.stop_waits();
  s.end_waits = from.end_waits();
  for (const Wire::StoppedRank& stopped : from.stopped()) {
    if (stopped.rank() < 0 || stopped.rank() >= ranks) {
      return absl::DataLossError(absl::StrCat("stopped rank ", stopped.rank(), " of ", ranks));
    }
    s.stopped[Rank(stopped.rank())] = stopped.how();
  }
  s.exit_code = from.exit_code();
  s.ended = from.ended();
  for (const Wire::Memory& of_node : from.memory()) {
    if (!s.members.Contains(NodeId(of_node.node()))) {
      return absl::DataLossError(absl::StrCat("memory of node ", of_node.node(), " of ", nodes));
    }
    s.memory[NodeId(of_node.node())] = of_node.memory();
  }
  s.memory_looks = from.memory_looks();
  RETURN_IF_ERROR(GetIds(from.memory_unknown(), static_cast<int>(nodes), "unknown memory of node",
                         &s.memory_unknown));
  ASSIGN_OR_RETURN(Report report, FromSnapshot(from.report()));
  RETURN_IF_ERROR(CheckStory(report, s.phase, s.generation));
  s.history = History::Of(std::move(report));
  s.heard_step = from.heard_step();
  s.told_step = from.told_step();
  s.stacks_asked = from.stacks_asked();
  s.memory_told = from.memory_told();
  for (const Wire::Stack& stack : from.stacks()) {
    s.stacks[Rank(stack.rank())].assign(stack.lines().begin(), stack.lines().end());
  }
  return s;
}

}  // namespace

std::string Coordinator::Snapshot() const { return ToWire(s_).SerializeAsString(); }

absl::StatusOr<Coordinator> Coordinator::Restore(CoordinatorConfig config,
                                                 std::string_view snapshot) {
  Wire from;
  if (!from.ParseFromArray(snapshot.data(), static_cast<int>(snapshot.size()))) {
    return absl::DataLossError("it is no snapshot of a coordinator");
  }
  if (from.schema_version() != kSnapshotSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("it has schema version ", from.schema_version(), ", expected ",
                     kSnapshotSchemaVersion, "; read it with the version that wrote it"));
  }
  Coordinator coordinator(std::move(config));
  ASSIGN_OR_RETURN(coordinator.s_, FromWire(coordinator.config_, from));
  if (absl::Status s = coordinator.CheckInvariants(); !s.ok()) {
    return absl::DataLossError(s.message());
  }
  return coordinator;
}

}  // namespace dsrun::launcher
