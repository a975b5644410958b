#include "tests/agent/scripted_node.h"

#include <string>
#include <variant>

#include "absl/strings/str_cat.h"

namespace dsrun::agent {
namespace {

std::string Name(const proto::AgentMessage& m) {
  const std::string g = absl::StrCat("@", m.generation());
  switch (m.body_case()) {
    case proto::AgentMessage::kOpened:
      return "opened";
    case proto::AgentMessage::kPrepared: {
      std::string text = "prepared" + g;
      for (const int slot : m.prepared().live_slots()) absl::StrAppend(&text, " ", slot);
      if (m.prepared().master_port() != 0) {
        absl::StrAppend(&text, " port ", m.prepared().master_port());
      }
      if (!m.prepared().port_error().empty()) {
        absl::StrAppend(&text, " no port: ", m.prepared().port_error());
      }
      return text;
    }
    case proto::AgentMessage::kWorkerStarted:
      return absl::StrCat("started", g, " ", m.worker_started().slot());
    case proto::AgentMessage::kWorkerExited:
      return absl::StrCat("exited", g, " ", m.worker_exited().slot(),
                          m.worker_exited().killed_by_agent() ? " killed" : "");
    case proto::AgentMessage::kWorkerReport:
      return absl::StrCat("report", g, " ", m.worker_report().slot());
    case proto::AgentMessage::kHeartbeat:
      return "heartbeat";
    case proto::AgentMessage::kLogChunk:
      return "log";
    case proto::AgentMessage::kJobEnded:
      return "job-ended";
    case proto::AgentMessage::BODY_NOT_SET:
      return "?";
  }
  return "?";
}

std::string Name(const proto::HostMessage& m) {
  switch (m.body_case()) {
    case proto::HostMessage::kWelcome:
      return "welcome";
    case proto::HostMessage::kPlan:
      return absl::StrCat("plan@", m.plan().generation());
    case proto::HostMessage::kExchangeTable:
      return "table " + m.exchange_table().name();
    case proto::HostMessage::kStop:
      return m.stop().checkpoint_first() ? "stop-save" : "stop-now";
    case proto::HostMessage::kTakeStacks:
      return "stacks";
    case proto::HostMessage::kCommitSave:
      return absl::StrCat("commit ", m.commit_save().attempt());
    case proto::HostMessage::kDropSave:
      return absl::StrCat("drop ", m.drop_save().save().step());
    case proto::HostMessage::BODY_NOT_SET:
      return "?";
  }
  return "?";
}

}  // namespace

std::string Name(const NodeAction& action) {
  struct Visitor {
    std::string operator()(const SpawnWorker& a) {
      return absl::StrCat("spawn ", a.slot.value(), " as ", a.rank.value());
    }
    std::string operator()(const ReservePort& a) {
      return absl::StrCat("reserve@", a.generation.value());
    }
    std::string operator()(const InspectWorker& a) {
      return absl::StrCat("inspect ", a.slot.value());
    }
    std::string operator()(const KillWorker& a) { return absl::StrCat("kill ", a.slot.value()); }
    std::string operator()(const StopLadder& a) {
      std::string text = "ladder";
      for (const Slot slot : a.slots) absl::StrAppend(&text, " ", slot.value());
      return text;
    }
    std::string operator()(const SignalWorkers& a) {
      std::string text = absl::StrCat("signal ", a.signal);
      for (const Slot slot : a.slots) absl::StrAppend(&text, " ", slot.value());
      return text;
    }
    std::string operator()(const SendToCoordinator& a) { return Name(a.message); }
    std::string operator()(const SendToWorker& a) {
      return absl::StrCat("to ", a.slot.value(), ": ", Name(a.message));
    }
    std::string operator()(const SweepOrphans& a) {
      return a.slot.has_value() ? absl::StrCat("sweep ", a.slot->value()) : "sweep all";
    }
    std::string operator()(const ClearNode& a) {
      return absl::StrCat("clear@", a.generation.value());
    }
    std::string operator()(const LeaveBehind& a) { return absl::StrCat("leave ", a.slot.value()); }
    std::string operator()(const JobOver& a) { return a.abandoned ? "abandoned" : "over"; }
  };
  return std::visit(Visitor(), action);
}

}  // namespace dsrun::agent
