#include "agent/agent_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "agent/peers.h"
#include "agent/supervisor.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/rpc/introduction.h"
#include "common/rpc/message_bytes.h"
#include "common/rpc/server_stream.h"

namespace dsrun::agent {
namespace {

using Stream = ServerStream<grpc::ByteBuffer, grpc::ByteBuffer>;

// Output of ranks that may wait for a slow launcher; beyond it lines are counted instead of kept.
constexpr size_t kMaxBulkBytes = 4 << 20;

class StreamPeer : public CoordinatorPeer {
 public:
  explicit StreamPeer(Stream::Ptr stream) : stream_(std::move(stream)) {}
  void Send(proto::AgentMessage message) override { stream_->Send(EncodeMessage(message)); }
  bool TrySendBulk(proto::AgentMessage message) override {
    if (stream_->queued_bytes() > kMaxBulkBytes) return false;
    grpc::ByteBuffer encoded = EncodeMessage(message);
    const size_t bytes = encoded.Length();
    stream_->SendSized(std::move(encoded), bytes);
    return true;
  }
  void Close(absl::Status status) override { stream_->Close(std::move(status)); }

 private:
  const Stream::Ptr stream_;
};

// Of gRPC's threads, one call at a time.
struct Call {
  std::shared_ptr<Guest> guest;            // null: it came through no door of ours
  std::shared_ptr<Supervisor> supervisor;  // null before Open
  std::string why_gone = "the coordinator's stream is gone";
};

std::string WhoIs(const Call& call) {
  return call.guest == nullptr ? "without a ticket" : call.guest->caller.address;
}

absl::Status NoTicket() {
  return absl::UnauthenticatedError(
      "the call shows no ticket of this agent's door, or another call has shown it; dsrun and "
      "dsagent "
      "must come from one build");
}

absl::Status Take(AgentNode& node, const Stream::Ptr& stream, const grpc::ByteBuffer& bytes,
                  Call& call) {
  if (call.guest == nullptr) return NoTicket();
  ASSIGN_OR_RETURN(const proto::CoordinatorMessage message,
                   DecodeMessage<proto::CoordinatorMessage>(bytes));
  if (call.supervisor != nullptr) {
    call.supervisor->OnCoordinatorMessage(message);
    return absl::OkStatus();
  }
  call.guest->settled = true;  // admitting takes its time; the door waits for it no longer
  ASSIGN_OR_RETURN(call.supervisor, node.Admit(message, std::make_shared<StreamPeer>(stream)));
  LOG(INFO) << "job " << message.open().job().job_id() << " admitted from " << WhoIs(call);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* AgentService::Session(
    grpc::CallbackServerContext* context) {
  auto call = std::make_shared<Call>();
  call->guest = Introduced(*guests_, *context);
  return Stream::Accept({
      .on_message =
          [this, call](const Stream::Ptr& stream, const grpc::ByteBuffer& bytes) {
            absl::Status status = Take(*node_, stream, bytes, *call);
            if (status.ok()) return;
            LOG(WARNING) << "caller " << WhoIs(*call) << " is sent away: " << status;
            call->why_gone = absl::StrCat("its stream was ended here: ", status.message());
            stream->Close(std::move(status));
          },
      .on_gone =
          [call](const Stream::Ptr&) {
            if (call->supervisor == nullptr) return;
            call->supervisor->OnCoordinatorGone(call->why_gone);
            call->supervisor = nullptr;
          },
  });
}

}  // namespace dsrun::agent
