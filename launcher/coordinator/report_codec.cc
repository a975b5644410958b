#include "launcher/coordinator/report_codec.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/counted.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"

namespace dsrun::launcher {
namespace {

using launcher::FromSnapshot;
using launcher::ToSnapshot;

proto::FailureState::Kind ToSnapshot(Failure::Kind kind) {
  switch (kind) {
    case Failure::Kind::kWorkerExited:
      return proto::FailureState::WORKER_EXITED;
    case Failure::Kind::kWorkerReported:
      return proto::FailureState::WORKER_REPORTED;
    case Failure::Kind::kWorkerNotJoined:
      return proto::FailureState::WORKER_NOT_JOINED;
    case Failure::Kind::kWorkerMissed:
      return proto::FailureState::WORKER_MISSED;
    case Failure::Kind::kNodeLost:
      return proto::FailureState::NODE_LOST;
    case Failure::Kind::kNodeNotOpened:
      return proto::FailureState::NODE_NOT_OPENED;
  }
  return proto::FailureState::KIND_UNSPECIFIED;
}

absl::StatusOr<Failure::Kind> FromSnapshot(proto::FailureState::Kind kind) {
  switch (static_cast<int>(kind)) {
    case proto::FailureState::WORKER_EXITED:
      return Failure::Kind::kWorkerExited;
    case proto::FailureState::WORKER_REPORTED:
      return Failure::Kind::kWorkerReported;
    case proto::FailureState::WORKER_NOT_JOINED:
      return Failure::Kind::kWorkerNotJoined;
    case proto::FailureState::WORKER_MISSED:
      return Failure::Kind::kWorkerMissed;
    case proto::FailureState::NODE_LOST:
      return Failure::Kind::kNodeLost;
    case proto::FailureState::NODE_NOT_OPENED:
      return Failure::Kind::kNodeNotOpened;
  }
  return absl::DataLossError(absl::StrCat("a failure of unknown kind ", static_cast<int>(kind)));
}

proto::IncidentState ToSnapshot(const Incident& incident) {
  const auto& [cause, consequences, failed, went_on, detected_at, failed_at, began_at, joined_at,
               next_step_at, last_step_before, resumed_from_step] = incident;
  proto::IncidentState state;
  *state.mutable_cause() = ToSnapshot(cause);
  for (const Failure& each : consequences) *state.add_consequences() = ToSnapshot(each);
  state.set_failed(failed.value());
  if (went_on) state.set_went_on(went_on->value());
  *state.mutable_detected_at() = ToProto(detected_at);
  *state.mutable_failed_at() = ToProto(failed_at);
  if (began_at) *state.mutable_began_at() = ToProto(*began_at);
  if (joined_at) *state.mutable_joined_at() = ToProto(*joined_at);
  if (next_step_at) *state.mutable_next_step_at() = ToProto(*next_step_at);
  state.set_last_step_before(last_step_before);
  state.set_resumed_from_step(resumed_from_step);
  return state;
}

absl::StatusOr<Incident> FromSnapshot(const proto::IncidentState& state) {
  Incident incident;
  auto& [cause, consequences, failed, went_on, detected_at, failed_at, began_at, joined_at,
         next_step_at, last_step_before, resumed_from_step] = incident;
  ASSIGN_OR_RETURN(cause, FromSnapshot(state.cause()));
  for (const proto::FailureState& each : state.consequences()) {
    ASSIGN_OR_RETURN(consequences.emplace_back(), FromSnapshot(each));
  }
  failed = Generation(state.failed());
  if (state.has_went_on()) went_on = Generation(state.went_on());
  detected_at = FromProto(state.detected_at());
  failed_at = FromProto(state.failed_at());
  if (state.has_began_at()) began_at = FromProto(state.began_at());
  if (state.has_joined_at()) joined_at = FromProto(state.joined_at());
  if (state.has_next_step_at()) next_step_at = FromProto(state.next_step_at());
  last_step_before = state.last_step_before();
  resumed_from_step = state.resumed_from_step();
  return incident;
}

proto::GenerationState ToSnapshot(const GenerationRecord& record) {
  const auto& [generation, reason, ranks, claimed_at, began_at, joined_at, first_step_at, ended_at,
               start_step, loaded_from, last_step] = record;
  proto::GenerationState state;
  state.set_generation(generation.value());
  state.set_reason(reason);
  for (const WorkerId& worker : ranks) {
    state.add_rank_nodes(worker.node.value());
    state.add_rank_slots(worker.slot.value());
  }
  *state.mutable_claimed_at() = ToProto(claimed_at);
  if (began_at) *state.mutable_began_at() = ToProto(*began_at);
  if (joined_at) *state.mutable_joined_at() = ToProto(*joined_at);
  if (first_step_at) *state.mutable_first_step_at() = ToProto(*first_step_at);
  if (ended_at) *state.mutable_ended_at() = ToProto(*ended_at);
  state.set_start_step(start_step);
  state.set_loaded_from(loaded_from);
  state.set_last_step(last_step);
  return state;
}

absl::StatusOr<GenerationRecord> FromSnapshot(const proto::GenerationState& state) {
  if (state.rank_nodes_size() != state.rank_slots_size()) {
    return absl::DataLossError(absl::StrCat(
        "generation ", state.generation(), " has ", Counted(state.rank_nodes_size(), "node"),
        " and ", Counted(state.rank_slots_size(), "slot"), " of its ranks"));
  }
  GenerationRecord record;
  auto& [generation, reason, ranks, claimed_at, began_at, joined_at, first_step_at, ended_at,
         start_step, loaded_from, last_step] = record;
  generation = Generation(state.generation());
  reason = state.reason();
  for (int i = 0; i < state.rank_nodes_size(); ++i) {
    ranks.push_back({NodeId(state.rank_nodes(i)), Slot(state.rank_slots(i))});
  }
  claimed_at = FromProto(state.claimed_at());
  if (state.has_began_at()) began_at = FromProto(state.began_at());
  if (state.has_joined_at()) joined_at = FromProto(state.joined_at());
  if (state.has_first_step_at()) first_step_at = FromProto(state.first_step_at());
  if (state.has_ended_at()) ended_at = FromProto(state.ended_at());
  start_step = state.start_step();
  loaded_from = state.loaded_from();
  last_step = state.last_step();
  return record;
}

}  // namespace

proto::FailureState ToSnapshot(const Failure& failure) {
  const auto& [kind, node, host, slot, rank, generation, what, exit_code, pid, fatal, peer_rank,
               timed_out, killed_by_agent, from_outside, noticed_at, silent_for, wall_time,
               node_time, happened_at, happened_within, last_lines, stack] = failure;
  proto::FailureState state;
  state.set_kind(ToSnapshot(kind));
  state.set_node(node.value());
  state.set_host(host);
  if (slot) state.set_slot(slot->value());
  if (rank) state.set_rank(rank->value());
  state.set_generation(generation.value());
  state.set_what(what);
  state.set_exit_code(exit_code);
  state.set_pid(pid);
  state.set_fatal(fatal);
  state.set_killed_by_agent(killed_by_agent);
  state.set_from_outside(from_outside);
  *state.mutable_noticed_at() = ToProto(noticed_at);
  *state.mutable_silent_for() = ToProto(silent_for);
  if (wall_time) *state.mutable_wall_time() = ToProto(*wall_time);
  if (node_time) *state.mutable_node_time() = ToProto(*node_time);
  if (happened_at) *state.mutable_happened_at() = ToProto(*happened_at);
  *state.mutable_happened_within() = ToProto(happened_within);
  for (const std::string& line : last_lines) state.add_last_lines(line);
  state.set_peer_rank(peer_rank);
  state.set_timed_out(timed_out);
  for (const std::string& line : stack) state.add_stack(line);
  return state;
}

absl::StatusOr<Failure> FromSnapshot(const proto::FailureState& state) {
  Failure failure;
  auto& [kind, node, host, slot, rank, generation, what, exit_code, pid, fatal, peer_rank,
         timed_out, killed_by_agent, from_outside, noticed_at, silent_for, wall_time, node_time,
         happened_at, happened_within, last_lines, stack] = failure;
  ASSIGN_OR_RETURN(kind, FromSnapshot(state.kind()));
  node = NodeId(state.node());
  host = state.host();
  if (state.has_slot()) slot = Slot(state.slot());
  if (state.has_rank()) rank = Rank(state.rank());
  generation = Generation(state.generation());
  what = state.what();
  exit_code = state.exit_code();
  pid = state.pid();
  fatal = state.fatal();
  killed_by_agent = state.killed_by_agent();
  from_outside = state.from_outside();
  noticed_at = FromProto(state.noticed_at());
  silent_for = FromProto(state.silent_for());
  if (state.has_wall_time()) wall_time = FromProto(state.wall_time());
  if (state.has_node_time()) node_time = FromProto(state.node_time());
  if (state.has_happened_at()) happened_at = FromProto(state.happened_at());
  happened_within = FromProto(state.happened_within());
  last_lines.assign(state.last_lines().begin(), state.last_lines().end());
  peer_rank = state.peer_rank();
  timed_out = state.timed_out();
  stack.assign(state.stack().begin(), state.stack().end());
  return failure;
}

proto::ReportState ToSnapshot(const Report& report) {
  const auto& [exit_code, verdict, launch_failures, incidents, generations, restarts, lost_steps,
               lost_time, started_at, ended_at, final_step, final_loss, manifest, checkpoint_step,
               sample, stopped_early] = report;
  proto::ReportState state;
  state.set_exit_code(exit_code);
  state.set_verdict(verdict);
  for (const Failure& each : launch_failures) *state.add_launch_failures() = ToSnapshot(each);
  for (const Incident& each : incidents) *state.add_incidents() = ToSnapshot(each);
  for (const GenerationRecord& each : generations) *state.add_generations() = ToSnapshot(each);
  state.set_restarts(restarts);
  state.set_lost_steps(lost_steps);
  *state.mutable_lost_time() = ToProto(lost_time);
  *state.mutable_started_at() = ToProto(started_at);
  *state.mutable_ended_at() = ToProto(ended_at);
  state.set_final_step(final_step);
  state.set_final_loss(final_loss);
  state.set_manifest(manifest);
  state.set_checkpoint_step(checkpoint_step);
  state.set_sample(sample);
  state.set_stopped_early(stopped_early);
  return state;
}

absl::StatusOr<Report> FromSnapshot(const proto::ReportState& state) {
  Report report;
  auto& [exit_code, verdict, launch_failures, incidents, generations, restarts, lost_steps,
         lost_time, started_at, ended_at, final_step, final_loss, manifest, checkpoint_step, sample,
         stopped_early] = report;
  exit_code = state.exit_code();
  verdict = state.verdict();
  for (const proto::FailureState& each : state.launch_failures()) {
    ASSIGN_OR_RETURN(launch_failures.emplace_back(), FromSnapshot(each));
  }
  for (const proto::IncidentState& each : state.incidents()) {
    ASSIGN_OR_RETURN(incidents.emplace_back(), FromSnapshot(each));
  }
  for (const proto::GenerationState& each : state.generations()) {
    ASSIGN_OR_RETURN(generations.emplace_back(), FromSnapshot(each));
  }
  restarts = state.restarts();
  lost_steps = state.lost_steps();
  lost_time = FromProto(state.lost_time());
  started_at = FromProto(state.started_at());
  ended_at = FromProto(state.ended_at());
  final_step = state.final_step();
  final_loss = state.final_loss();
  manifest = state.manifest();
  checkpoint_step = state.checkpoint_step();
  sample = state.sample();
  stopped_early = state.stopped_early();
  return report;
}

}  // namespace dsrun::launcher
