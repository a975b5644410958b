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
  proto::IncidentState state;
  *state.mutable_cause() = ToSnapshot(incident.cause);
  for (const Failure& each : incident.consequences) *state.add_consequences() = ToSnapshot(each);
  state.set_more(incident.more);
  state.set_failed(incident.failed.value());
  if (incident.went_on) state.set_went_on(incident.went_on->value());
  *state.mutable_detected_at() = ToProto(incident.detected_at);
  *state.mutable_failed_at() = ToProto(incident.failed_at);
  if (incident.began_at) *state.mutable_began_at() = ToProto(*incident.began_at);
  if (incident.joined_at) *state.mutable_joined_at() = ToProto(*incident.joined_at);
  if (incident.next_step_at) *state.mutable_next_step_at() = ToProto(*incident.next_step_at);
  state.set_last_step_before(incident.last_step_before);
  state.set_resumed_from_step(incident.resumed_from_step);
  return state;
}

absl::StatusOr<Incident> FromSnapshot(const proto::IncidentState& state) {
  Incident incident;
  ASSIGN_OR_RETURN(incident.cause, FromSnapshot(state.cause()));
  for (const proto::FailureState& each : state.consequences()) {
    ASSIGN_OR_RETURN(incident.consequences.emplace_back(), FromSnapshot(each));
  }
  incident.more = state.more();
  incident.failed = Generation(state.failed());
  if (state.has_went_on()) incident.went_on = Generation(state.went_on());
  incident.detected_at = FromProto(state.detected_at());
  incident.failed_at = FromProto(state.failed_at());
  if (state.has_began_at()) incident.began_at = FromProto(state.began_at());
  if (state.has_joined_at()) incident.joined_at = FromProto(state.joined_at());
  if (state.has_next_step_at()) incident.next_step_at = FromProto(state.next_step_at());
  incident.last_step_before = state.last_step_before();
  incident.resumed_from_step = state.resumed_from_step();
  return incident;
}

proto::GenerationState ToSnapshot(const GenerationRecord& record) {
  proto::GenerationState state;
  state.set_generation(record.generation.value());
  state.set_reason(record.reason);
  for (const WorkerId& worker : record.ranks) {
    state.add_rank_nodes(worker.node.value());
    state.add_rank_slots(worker.slot.value());
  }
  *state.mutable_claimed_at() = ToProto(record.claimed_at);
  if (record.began_at) *state.mutable_began_at() = ToProto(*record.began_at);
  if (record.joined_at) *state.mutable_joined_at() = ToProto(*record.joined_at);
  if (record.first_step_at) *state.mutable_first_step_at() = ToProto(*record.first_step_at);
  if (record.ended_at) *state.mutable_ended_at() = ToProto(*record.ended_at);
  state.set_start_step(record.start_step);
  state.set_loaded_from(record.loaded_from);
  state.set_last_step(record.last_step);
  return state;
}

absl::StatusOr<GenerationRecord> FromSnapshot(const proto::GenerationState& state) {
  if (state.rank_nodes_size() != state.rank_slots_size()) {
    return absl::DataLossError(absl::StrCat(
        "generation ", state.generation(), " has ", Counted(state.rank_nodes_size(), "node"),
        " and ", Counted(state.rank_slots_size(), "slot"), " of its ranks"));
  }
  GenerationRecord record;
  record.generation = Generation(state.generation());
  record.reason = state.reason();
  for (int i = 0; i < state.rank_nodes_size(); ++i) {
    record.ranks.push_back({NodeId(state.rank_nodes(i)), Slot(state.rank_slots(i))});
  }
  record.claimed_at = FromProto(state.claimed_at());
  if (state.has_began_at()) record.began_at = FromProto(state.began_at());
  if (state.has_joined_at()) record.joined_at = FromProto(state.joined_at());
  if (state.has_first_step_at()) record.first_step_at = FromProto(state.first_step_at());
  if (state.has_ended_at()) record.ended_at = FromProto(state.ended_at());
  record.start_step = state.start_step();
  record.loaded_from = state.loaded_from();
  record.last_step = state.last_step();
  return record;
}

}  // namespace

proto::FailureState ToSnapshot(const Failure& failure) {
  proto::FailureState state;
  state.set_kind(ToSnapshot(failure.kind));
  state.set_node(failure.node.value());
  state.set_host(failure.host);
  if (failure.slot) state.set_slot(failure.slot->value());
  if (failure.rank) state.set_rank(failure.rank->value());
  state.set_generation(failure.generation.value());
  state.set_what(failure.what);
  state.set_exit_code(failure.exit_code);
  state.set_pid(failure.pid);
  state.set_fatal(failure.fatal);
  state.set_replace_process(failure.replace_process);
  state.set_killed_by_agent(failure.killed_by_agent);
  state.set_from_outside(failure.from_outside);
  *state.mutable_noticed_at() = ToProto(failure.noticed_at);
  *state.mutable_silent_for() = ToProto(failure.silent_for);
  if (failure.wall_time) *state.mutable_wall_time() = ToProto(*failure.wall_time);
  if (failure.node_time) *state.mutable_node_time() = ToProto(*failure.node_time);
  if (failure.happened_at) *state.mutable_happened_at() = ToProto(*failure.happened_at);
  *state.mutable_happened_within() = ToProto(failure.happened_within);
  for (const std::string& line : failure.last_lines) state.add_last_lines(line);
  state.set_lines_left_out(failure.lines_left_out);
  state.set_peer_rank(failure.peer_rank);
  state.set_timed_out(failure.timed_out);
  for (const std::string& line : failure.stack) state.add_stack(line);
  return state;
}

absl::StatusOr<Failure> FromSnapshot(const proto::FailureState& state) {
  Failure failure;
  ASSIGN_OR_RETURN(failure.kind, FromSnapshot(state.kind()));
  failure.node = NodeId(state.node());
  failure.host = state.host();
  if (state.has_slot()) failure.slot = Slot(state.slot());
  if (state.has_rank()) failure.rank = Rank(state.rank());
  failure.generation = Generation(state.generation());
  failure.what = state.what();
  failure.exit_code = state.exit_code();
  failure.pid = state.pid();
  failure.fatal = state.fatal();
  failure.replace_process = state.replace_process();
  failure.killed_by_agent = state.killed_by_agent();
  failure.from_outside = state.from_outside();
  failure.noticed_at = FromProto(state.noticed_at());
  failure.silent_for = FromProto(state.silent_for());
  if (state.has_wall_time()) failure.wall_time = FromProto(state.wall_time());
  if (state.has_node_time()) failure.node_time = FromProto(state.node_time());
  if (state.has_happened_at()) failure.happened_at = FromProto(state.happened_at());
  failure.happened_within = FromProto(state.happened_within());
  failure.last_lines.assign(state.last_lines().begin(), state.last_lines().end());
  failure.lines_left_out = state.lines_left_out();
  failure.peer_rank = state.peer_rank();
  failure.timed_out = state.timed_out();
  failure.stack.assign(state.stack().begin(), state.stack().end());
  return failure;
}

proto::ReportState ToSnapshot(const Report& report) {
  proto::ReportState state;
  state.set_exit_code(report.exit_code);
  state.set_verdict(report.verdict);
  for (const Failure& each : report.launch_failures) {
    *state.add_launch_failures() = ToSnapshot(each);
  }
  for (const Incident& each : report.incidents) *state.add_incidents() = ToSnapshot(each);
  for (const GenerationRecord& each : report.generations) {
    *state.add_generations() = ToSnapshot(each);
  }
  state.set_restarts(report.restarts);
  state.set_lost_steps(report.lost_steps);
  *state.mutable_lost_time() = ToProto(report.lost_time);
  *state.mutable_started_at() = ToProto(report.started_at);
  *state.mutable_ended_at() = ToProto(report.ended_at);
  state.set_final_step(report.final_step);
  state.set_final_loss(report.final_loss);
  state.set_manifest(report.manifest);
  state.set_checkpoint_step(report.checkpoint_step);
  state.set_sample(report.sample);
  state.set_stopped_early(report.stopped_early);
  for (const std::string& line : report.lacking_memory) state.add_lacking_memory(line);
  state.set_would_fit(report.would_fit);
  return state;
}

absl::StatusOr<Report> FromSnapshot(const proto::ReportState& state) {
  Report report;
  report.exit_code = state.exit_code();
  report.verdict = state.verdict();
  for (const proto::FailureState& each : state.launch_failures()) {
    ASSIGN_OR_RETURN(report.launch_failures.emplace_back(), FromSnapshot(each));
  }
  for (const proto::IncidentState& each : state.incidents()) {
    ASSIGN_OR_RETURN(report.incidents.emplace_back(), FromSnapshot(each));
  }
  for (const proto::GenerationState& each : state.generations()) {
    ASSIGN_OR_RETURN(report.generations.emplace_back(), FromSnapshot(each));
  }
  report.restarts = state.restarts();
  report.lost_steps = state.lost_steps();
  report.lost_time = FromProto(state.lost_time());
  report.started_at = FromProto(state.started_at());
  report.ended_at = FromProto(state.ended_at());
  report.final_step = state.final_step();
  report.final_loss = state.final_loss();
  report.manifest = state.manifest();
  report.checkpoint_step = state.checkpoint_step();
  report.sample = state.sample();
  report.stopped_early = state.stopped_early();
  report.lacking_memory.assign(state.lacking_memory().begin(), state.lacking_memory().end());
  report.would_fit = state.would_fit();
  return report;
}

}  // namespace dsrun::launcher
