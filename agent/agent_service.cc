#include "agent/agent_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "agent/peers.h"
#include "agent/supervisor.h"
#include "common/base/logging.h"
#include "common/rpc/loopback.h"
#include "common/rpc/server_stream.h"

namespace dsrun::agent {
namespace {

using Stream = ServerStream<proto::CoordinatorMessage, proto::AgentMessage>;

// Output of ranks that may wait for a slow launcher; beyond it lines are counted instead of kept.
constexpr size_t kMaxBulkBytes = 4 << 20;

class StreamPeer : public CoordinatorPeer {
 public:
  explicit StreamPeer(Stream::Ptr stream) : stream_(std::move(stream)) {}
  void Send(proto::AgentMessage message) override { stream_->Send(std::move(message)); }
  bool TrySendBulk(proto::AgentMessage message) override {
    if (stream_->queued_bytes() > kMaxBulkBytes) return false;
    const size_t bytes = message.ByteSizeLong();
    stream_->SendSized(std::move(message), bytes);
    return true;
  }
  void Close(absl::Status status) override { stream_->Close(std::move(status)); }

 private:
  const Stream::Ptr stream_;
};

// Of gRPC's threads, one call at a time.
struct Call {
  std::shared_ptr<Supervisor> supervisor;  // null before Open
};

}  // namespace

grpc::ServerBidiReactor<proto::CoordinatorMessage, proto::AgentMessage>* AgentService::Session(
    grpc::CallbackServerContext* context) {
  const std::string peer = context->peer();
  auto call = std::make_shared<Call>();
  return Stream::Accept({
      .on_message =
          [this, call, peer](const Stream::Ptr& stream, const proto::CoordinatorMessage& message) {
            if (call->supervisor != nullptr) return call->supervisor->OnCoordinatorMessage(message);
            if (!IsLoopbackPeer(peer)) {
              return stream->Close(absl::UnauthenticatedError(absl::StrCat(
                  "caller ", peer, ": off loopback everything is refused until TLS exists")));
            }
            absl::StatusOr<std::shared_ptr<Supervisor>> admitted =
                node_->Admit(message, std::make_shared<StreamPeer>(stream));
            if (!admitted.ok()) return stream->Close(admitted.status());
            LOG(INFO) << "job " << message.open().job().job_id() << " admitted from " << peer;
            call->supervisor = *std::move(admitted);
          },
      .on_gone =
          [call](const Stream::Ptr&) {
            if (call->supervisor == nullptr) return;
            call->supervisor->OnCoordinatorGone("the coordinator's stream is gone");
            call->supervisor = nullptr;
          },
  });
}

}  // namespace dsrun::agent
