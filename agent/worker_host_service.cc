#include "agent/worker_host_service.h"

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "agent/peers.h"
#include "agent/supervisor.h"
#include "common/base/ids.h"
#include "common/base/logging.h"
#include "common/rpc/introduction.h"
#include "common/rpc/server_stream.h"

namespace dsrun::agent {
namespace {

using Stream = ServerStream<proto::WorkerMessage, proto::HostMessage>;

class StreamPeer : public WorkerPeer {
 public:
  explicit StreamPeer(Stream::Ptr stream) : stream_(std::move(stream)) {}
  void Send(proto::HostMessage message) override { stream_->Send(std::move(message)); }
  void Close(absl::Status status) override { stream_->Close(std::move(status)); }

 private:
  const Stream::Ptr stream_;
};

// Of gRPC's threads, one call at a time.
struct Call {
  std::shared_ptr<Guest> guest;            // null: it came through no door of ours
  std::shared_ptr<Supervisor> supervisor;  // null before Hello
  Slot slot;
  Incarnation incarnation;
};

absl::Status Greet(AgentNode& node, const Stream::Ptr& stream, const proto::WorkerMessage& hello,
                   Call& call) {
  if (call.guest == nullptr) {
    return absl::UnauthenticatedError(
        "worker session: it shows no ticket of the door, or another session has shown it");
  }
  if (!hello.has_hello()) return absl::UnauthenticatedError("worker session: expected Hello first");
  absl::StatusOr<std::shared_ptr<Supervisor>> supervisor = node.Running();
  if (!supervisor.ok()) return supervisor.status();
  if (absl::Status status =
          (*supervisor)
              ->OnWorkerHello(hello, call.guest->caller.pid, std::make_shared<StreamPeer>(stream));
      !status.ok()) {
    return status;
  }
  call.guest->settled = true;
  call.supervisor = *std::move(supervisor);
  call.slot = Slot(hello.hello().slot());
  call.incarnation = Incarnation(hello.incarnation());
  return absl::OkStatus();
}

}  // namespace

grpc::ServerBidiReactor<proto::WorkerMessage, proto::HostMessage>* WorkerHostService::Session(
    grpc::CallbackServerContext* context) {
  auto call = std::make_shared<Call>();
  call->guest = Introduced(*guests_, *context);
  return Stream::Accept({
      .on_message =
          [this, call](const Stream::Ptr& stream, const proto::WorkerMessage& message) {
            if (call->supervisor != nullptr) {
              return call->supervisor->OnWorkerMessage(call->slot, message);
            }
            if (absl::Status status = Greet(*node_, stream, message, *call); !status.ok()) {
              LOG(WARNING) << "a worker session was refused: " << status;
              stream->Close(std::move(status));
            }
          },
      .on_gone =
          [call](const Stream::Ptr&) {
            if (call->supervisor == nullptr) return;
            call->supervisor->OnWorkerGone(call->slot, call->incarnation);
            call->supervisor = nullptr;
          },
  });
}

}  // namespace dsrun::agent
