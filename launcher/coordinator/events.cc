#include "launcher/coordinator/events.h"

namespace dsrun::launcher {
namespace {

bool IsDurableReport(const proto::WorkerMessage& message) {
  switch (message.body_case()) {
    case proto::WorkerMessage::kExchangePut:
    case proto::WorkerMessage::kJoined:
    case proto::WorkerMessage::kFailed:
    case proto::WorkerMessage::kFinished:
    case proto::WorkerMessage::kShardWritten:
    case proto::WorkerMessage::kCommitDone:
      return true;
    case proto::WorkerMessage::kHello:
    case proto::WorkerMessage::kBeat:
    case proto::WorkerMessage::kStepDone:
    case proto::WorkerMessage::kNotice:
    case proto::WorkerMessage::kStacks:  // for the report alone
    case proto::WorkerMessage::BODY_NOT_SET:
      return false;
  }
  return false;  // A body of a newer protocol.
}

bool IsDurableMessage(const proto::AgentMessage& message) {
  switch (message.body_case()) {
    case proto::AgentMessage::kOpened:
    case proto::AgentMessage::kPrepared:
    case proto::AgentMessage::kWorkerStarted:
    case proto::AgentMessage::kWorkerExited:
    case proto::AgentMessage::kJobEnded:
      return true;
    case proto::AgentMessage::kWorkerReport:
      return IsDurableReport(message.worker_report().message());
    case proto::AgentMessage::kHeartbeat:
    case proto::AgentMessage::kLogChunk:
    case proto::AgentMessage::BODY_NOT_SET:
      return false;
  }
  return false;
}

}  // namespace

proto::CoordinatorMessage SendToAgent::Message() const {
  proto::CoordinatorMessage message = head;
  message.MergeFrom(*body);
  return message;
}

bool IsDurable(const Event& event) {
  if (const auto* spoke = std::get_if<AgentSpoke>(&event)) return IsDurableMessage(spoke->message);
  return !std::holds_alternative<Tick>(event) && !std::holds_alternative<OperatorSignal>(event);
}

}  // namespace dsrun::launcher
