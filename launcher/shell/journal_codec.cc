#include "launcher/shell/journal_codec.h"

#include <string>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "common/base/proto_duration.h"
#include "common/model/model_spec_proto.h"
#include "common/numerics/precision.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "common/plan/optimizer_settings.h"
#include "launcher/coordinator/generation_memory.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {
namespace {

// One overload for every alternative of Event: a new one does not compile until it has a form.
struct Encoder {
  proto::JournalEvent* to;

  void operator()(const Start&) { to->mutable_start(); }
  void operator()(const AgentSpoke& e) {
    to->mutable_agent_spoke()->set_node(e.node.value());
    *to->mutable_agent_spoke()->mutable_message() = e.message;
  }
  void operator()(const AgentGone& e) {
    to->mutable_agent_gone()->set_node(e.node.value());
    to->mutable_agent_gone()->set_code(static_cast<int32_t>(e.why.code()));
    to->mutable_agent_gone()->set_message(std::string(e.why.message()));
  }
  void operator()(const Tick&) {}  // not durable
  void operator()(const OperatorStop&) { to->mutable_operator_stop(); }
  void operator()(const OperatorSignal&) {}  // not durable
  void operator()(const NodeSilent& e) { to->mutable_node_silent()->set_node(e.node.value()); }
  void operator()(const DeadlinePassed& e) {
    proto::JournalEvent::DeadlinePassed* passed = to->mutable_deadline_passed();
    passed->set_kind(e.kind == DeadlinePassed::Kind::kPhase
                         ? proto::JournalEvent::DeadlinePassed::PHASE
                         : proto::JournalEvent::DeadlinePassed::CAUSE);
    passed->set_generation(e.generation.value());
    passed->set_number(e.number);
  }
  void operator()(const ProgressMade& e) {
    to->mutable_progress_made()->set_generation(e.generation.value());
    to->mutable_progress_made()->set_step(e.step);
  }
};

proto::JournalMemory ToJournal(const MemoryInput& memory) {
  proto::JournalMemory to;
  ToProto(memory.model, to.mutable_model());
  to.set_micro_batch_size(memory.micro_batch_size);
  to.set_micro_batches(memory.micro_batches);
  to.set_micro_batches_per_atom(memory.micro_batches_per_atom);
  to.set_fast_sums(memory.fast_sums);
  to.set_precision(std::string(FingerprintPrecision(PrecisionName(memory.precision))));
  to.set_bucket_bytes(memory.bucket_bytes);
  to.set_threads(memory.threads);
  for (const std::string& name : memory.frozen) to.add_frozen(name);
  if (memory.recompute.any()) {
    to.mutable_recompute()->set_every(memory.recompute.every);
    to.mutable_recompute()->set_budget_bytes(memory.recompute.budget_bytes);
  }
  to.set_optimizer(std::string(memory.optimizer.name));
  to.set_optimizer_slots(static_cast<int32_t>(memory.optimizer.slots.size()));
  to.set_zero_stage(memory.zero_stage);
  ToProto(memory.zero, to.mutable_zero());
  return to;
}

MemoryInput FromJournal(const proto::JournalMemory& from) {
  MemoryInput memory;
  memory.model = FromProto(from.model());
  memory.micro_batch_size = from.micro_batch_size();
  memory.micro_batches = from.micro_batches();
  memory.micro_batches_per_atom = std::max<int64_t>(from.micro_batches_per_atom(), 1);
  memory.fast_sums = from.fast_sums();
  memory.precision = PrecisionNamed(from.precision()).value_or(DType::kF32);
  memory.bucket_bytes = from.bucket_bytes();
  memory.threads = from.threads();
  memory.frozen.assign(from.frozen().begin(), from.frozen().end());
  memory.recompute = FromProto(from.recompute());
  if (const OptimizerForm* const form = FindOptimizer(from.optimizer()); form != nullptr) {
    const size_t slots = std::clamp<size_t>(from.optimizer_slots(), 0, form->slots.size());
    memory.optimizer = {form->name, form->slots.first(slots)};
  }
  if (from.has_zero_stage()) memory.zero_stage = from.zero_stage();
  memory.zero = FromProto(from.zero());
  return memory;
}

}  // namespace

proto::JournalEvent ToJournal(const Event& event) {
  proto::JournalEvent encoded;
  std::visit(Encoder{&encoded}, event);
  return encoded;
}

absl::StatusOr<Event> FromJournal(const proto::JournalEvent& event) {
  switch (event.kind_case()) {
    case proto::JournalEvent::kStart:
      return Start{};
    case proto::JournalEvent::kAgentSpoke:
      return AgentSpoke{NodeId(event.agent_spoke().node()), event.agent_spoke().message()};
    case proto::JournalEvent::kAgentGone:
      return AgentGone{NodeId(event.agent_gone().node()),
                       absl::Status(static_cast<absl::StatusCode>(event.agent_gone().code()),
                                    event.agent_gone().message())};
    case proto::JournalEvent::kOperatorStop:
      return OperatorStop{};
    case proto::JournalEvent::kNodeSilent:
      return NodeSilent{NodeId(event.node_silent().node())};
    case proto::JournalEvent::kDeadlinePassed:
      return DeadlinePassed{
          event.deadline_passed().kind() == proto::JournalEvent::DeadlinePassed::CAUSE
              ? DeadlinePassed::Kind::kCause
              : DeadlinePassed::Kind::kPhase,
          Generation(event.deadline_passed().generation()), event.deadline_passed().number()};
    case proto::JournalEvent::kProgressMade:
      return ProgressMade{Generation(event.progress_made().generation()),
                          event.progress_made().step()};
    case proto::JournalEvent::KIND_NOT_SET:
      break;
  }
  return absl::DataLossError(
      "a journal record holds no event that this version knows; expected one of "
      "proto/journal.proto; read it with the version that wrote it");
}

// Both name every field, so a new one does not compile until it has a form.
proto::JournalHeader ToJournal(const CoordinatorConfig& config) {
  const auto& [job_id, nodes, is_train, max_width, node_silent_after, lease, stop_grace,
               join_timeout, cause_grace, collective_timeout, loading_timeout, saving_timeout,
               max_restarts, restart_window, max_restarts_without_progress, memory, check_memory,
               goes_on] = config;
  proto::JournalHeader header;
  header.set_job_id(job_id);
  for (const auto& [host, slots] : nodes) {
    proto::JournalNode* to = header.add_nodes();
    to->set_host(host);
    for (const Slot slot : slots) to->add_slots(slot.value());
  }
  header.set_is_train(is_train);
  header.set_max_width(max_width);
  *header.mutable_node_silent_after() = ToProto(node_silent_after);
  *header.mutable_lease() = ToProto(lease);
  *header.mutable_stop_grace() = ToProto(stop_grace);
  *header.mutable_join_timeout() = ToProto(join_timeout);
  *header.mutable_cause_grace() = ToProto(cause_grace);
  *header.mutable_collective_timeout() = ToProto(collective_timeout);
  *header.mutable_loading_timeout() = ToProto(loading_timeout);
  *header.mutable_saving_timeout() = ToProto(saving_timeout);
  header.set_max_restarts(max_restarts);
  *header.mutable_restart_window() = ToProto(restart_window);
  header.set_max_restarts_without_progress(max_restarts_without_progress);
  if (memory) *header.mutable_memory() = ToJournal(*memory);
  header.set_memory_unchecked(!check_memory);
  header.set_goes_on(goes_on);
  return header;
}

CoordinatorConfig FromJournal(const proto::JournalHeader& header) {
  CoordinatorConfig config;
  auto& [job_id, nodes, is_train, max_width, node_silent_after, lease, stop_grace, join_timeout,
         cause_grace, collective_timeout, loading_timeout, saving_timeout, max_restarts,
         restart_window, max_restarts_without_progress, memory, check_memory, goes_on] = config;
  job_id = header.job_id();
  for (const proto::JournalNode& node : header.nodes()) {
    auto& [host, slots] = nodes.emplace_back();
    host = node.host();
    for (const int32_t slot : node.slots()) slots.push_back(Slot(slot));
  }
  is_train = header.is_train();
  max_width = header.max_width();
  node_silent_after = FromProto(header.node_silent_after());
  lease = FromProto(header.lease());
  stop_grace = FromProto(header.stop_grace());
  join_timeout = FromProto(header.join_timeout());
  cause_grace = FromProto(header.cause_grace());
  collective_timeout = FromProto(header.collective_timeout());
  // A journal from before they were written down replays by the defaults.
  loading_timeout = PositiveOr(header.loading_timeout(), loading_timeout);
  saving_timeout = PositiveOr(header.saving_timeout(), saving_timeout);
  max_restarts = header.max_restarts();
  restart_window = FromProto(header.restart_window());
  max_restarts_without_progress = header.max_restarts_without_progress();
  if (header.has_memory()) memory = FromJournal(header.memory());
  if (memory && !CanBePlanned(*memory)) memory.reset();
  check_memory = !header.memory_unchecked();
  goes_on = header.goes_on();
  return config;
}

}  // namespace dsrun::launcher
