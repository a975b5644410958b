#include "launcher/shell/grpc_agent_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/slice.h>

#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/introduction.h"
#include "common/rpc/message_bytes.h"
#include "common/rpc/status_codec.h"
#include "proto/agent_service.grpc.pb.h"

namespace dsrun::launcher {

namespace {

// From a cancelled stream to gRPC's last word on it.
constexpr absl::Duration kLetGoWithin = absl::Seconds(5);

std::string Method() { return absl::StrCat("/", proto::Agent::service_full_name(), "/Session"); }

// Whether gRPC has let go of a stream. Apart from the stream, so that the thread that says so does
// not touch what the one that waits for it destroys.
class Done {
 public:
  void Set() {
    MutexLock lock(mu_);
    done_ = true;
    changed_.NotifyAll();
  }
  // False: not within `limit`.
  bool Await(absl::Duration limit) {
    const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
    MutexLock lock(mu_);
    while (!done_ && changed_.WaitUntil(mu_, deadline)) continue;
    return done_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

// The stream. Destroyed by its session, after OnDone or not at all, and never by a thread of gRPC:
// with the channel go gRPC's callback threads, and one cannot wait for itself.
//
// A hold keeps gRPC from finishing the call while Send may still start a write; it is given back
// once nothing more can be read and no write is out.
//
// It takes the bytes of messages, as the agent does (common/rpc/message_bytes.h): one that cannot
// be decoded ends the stream, as what it said is lost, and so is the order.
class Stream : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Stream(std::shared_ptr<grpc::Channel> channel, std::string target, AgentClient::Listener listener)
      : target_(std::move(target)), listener_(std::move(listener)), stub_(std::move(channel)) {}

  void Start(grpc::ByteBuffer first, const std::string& ticket) {
    Introduce(context_, ticket);
    stub_.PrepareBidiStreamingCall(&context_, Method(), {}, this);
    AddHold();
    StartRead(&incoming_);
    Send(std::move(first));
    StartCall();
  }

  void Send(grpc::ByteBuffer message) {
    const grpc::ByteBuffer* next;
    {
      MutexLock lock(mu_);
      if (over_) return;
      outgoing_.push_back(std::move(message));
      if (writing_) return;
      writing_ = true;
      next = &outgoing_.front();
    }
    StartWrite(next);
  }

  void Cancel() { context_.TryCancel(); }

  bool AwaitDone() { return done_->Await(kLetGoWithin); }

  // ENSURES: the listener is not called any more, and its call is not running.
  void Deafen() {
    MutexLock lock(listener_mu_);
    deaf_ = true;
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      heard_ = true;
      Take();
      incoming_.Clear();
      StartRead(&incoming_);
      return;
    }
    bool release;
    {
      MutexLock lock(mu_);
      over_ = true;
      release = !writing_;
    }
    if (release) RemoveHold();
  }

  void OnWriteDone(bool ok) override {
    const grpc::ByteBuffer* next = nullptr;
    bool release = false;
    {
      MutexLock lock(mu_);
      outgoing_.pop_front();
      if (!ok) outgoing_.clear();  // the read side is about to learn why
      if (!over_ && !outgoing_.empty()) next = &outgoing_.front();
      writing_ = next != nullptr;
      release = over_ && !writing_;
    }
    if (next != nullptr) StartWrite(next);
    if (release) RemoveHold();
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Done> done = done_;  // outlives this object
    const absl::Status why = undecoded_.ok() ? FromGrpc(status) : undecoded_;
    {
      MutexLock lock(listener_mu_);
      if (!deaf_) listener_.on_end(why.ok() ? why : Annotate(Advised(why), "agent at " + target_));
    }
    done->Set();
  }

 private:
  void Take() {
    if (!undecoded_.ok()) return;
    absl::StatusOr<proto::AgentMessage> message = DecodeMessage<proto::AgentMessage>(incoming_);
    if (message.ok()) {
      MutexLock lock(listener_mu_);
      if (!deaf_) listener_.on_message(*std::move(message));
      return;
    }
    undecoded_ = message.status();
    context_.TryCancel();
  }

  // It has proven itself, so it is the agent that has gone.
  absl::Status Advised(const absl::Status& why) const {
    if (heard_ || !absl::IsUnavailable(why)) return why;
    return absl::UnavailableError(
        absl::StrCat("expected an answer, got none (", why.message(),
                     "): it has proven itself and then gone; its log says why"));
  }

  // Constant after construction.
  const std::string target_;
  const AgentClient::Listener listener_;
  grpc::GenericStub stub_;
  const std::shared_ptr<Done> done_ = std::make_shared<Done>();

  // gRPC's own synchronisation: touched by its callbacks only, one at a time.
  grpc::ClientContext context_;
  grpc::ByteBuffer incoming_;
  bool heard_ = false;  // a message came
  absl::Status undecoded_;

  Mutex listener_mu_;  // held by its calls, which queue only
  bool deaf_ ABSL_GUARDED_BY(listener_mu_) = false;

  Mutex mu_;
  // A deque does not move its elements: the front stays where gRPC reads it while others are added.
  std::deque<grpc::ByteBuffer> outgoing_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
};

// `rest` behind `message`: for protobuf that is the two merged. Not copied: it stays until gRPC has
// written it.
grpc::ByteBuffer Encode(const proto::CoordinatorMessage& message,
                        std::shared_ptr<const std::string> rest) {
  const grpc::Slice own(message.SerializeAsString());
  if (rest == nullptr) return grpc::ByteBuffer(&own, 1);
  const std::string& bytes = *rest;
  const grpc::Slice shared(
      const_cast<char*>(bytes.data()), bytes.size(),
      [](void* holder) { delete static_cast<std::shared_ptr<const std::string>*>(holder); },
      new std::shared_ptr<const std::string>(std::move(rest)));
  const grpc::Slice slices[] = {own, shared};
  return grpc::ByteBuffer(slices, 2);
}

class GrpcAgentSession : public AgentSession {
 public:
  explicit GrpcAgentSession(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}
  // gRPC lets go of a stream that is cancelled, as long as its threads run. Where they do not (it
  // found no thread, say), waiting would be for ever: the stream is left behind, and is heard no
  // more.
  ~GrpcAgentSession() override {
    stream_->Cancel();
    if (stream_->AwaitDone()) return;
    stream_->Deafen();
    LOG(ERROR) << "gRPC did not let go of a stream within " << kLetGoWithin << ": left behind";
    (void)stream_.release();
  }
  void Send(proto::CoordinatorMessage message, std::shared_ptr<const std::string> rest) override {
    stream_->Send(Encode(message, std::move(rest)));
  }
  void Cancel() override { stream_->Cancel(); }

 private:
  std::unique_ptr<Stream> stream_;
};

// Where there is no connection: the end has been told already.
class DeadSession : public AgentSession {
 public:
  void Send(proto::CoordinatorMessage, std::shared_ptr<const std::string>) override {}
  void Cancel() override {}
};

}  // namespace

std::unique_ptr<AgentSession> GrpcAgentClient::Open(const AgentEndpoint& endpoint,
                                                    proto::CoordinatorMessage first,
                                                    std::shared_ptr<const std::string> rest,
                                                    Listener listener) {
  if (endpoint.connection == nullptr || endpoint.connection->fd.get() < 0) {
    listener.on_end(absl::InternalError(
        absl::StrCat("agent at ", endpoint.target, ": its connection was taken before")));
    return std::make_unique<DeadSession>();
  }
  const std::string ticket = endpoint.connection->ticket;
  auto stream =
      std::make_unique<Stream>(MakeChannel(std::move(*endpoint.connection), Keepalive::kOn),
                               endpoint.target, std::move(listener));
  stream->Start(Encode(first, std::move(rest)), ticket);
  return std::make_unique<GrpcAgentSession>(std::move(stream));
}

}  // namespace dsrun::launcher
