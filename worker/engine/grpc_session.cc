#include "worker/engine/grpc_session.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/heartbeat.h"
#include "common/base/mutex.h"
#include "common/base/proto_duration.h"
#include "proto/agent_service.grpc.pb.h"
#include "worker/engine/session_state.h"

namespace dsrun::worker {
namespace {

constexpr int kProtocolVersion = 1;
// As everywhere in common/rpc: a commit comes with the records of all ranks, and gRPC's own limit
// of 4 MiB would be met at some hundred ranks.
constexpr int kMaxMessageBytes = 64 << 20;

class GrpcSession : public Session {
 public:
  explicit GrpcSession(SessionOptions options) : options_(std::move(options)) {}

  ~GrpcSession() override {
    closing_ = true;
    {
      MutexLock lock(beat_mu_);
      beat_stop_ = true;
      beat_changed_.NotifyAll();
    }
    if (beat_thread_.joinable()) beat_thread_.join();
    if (stream_ != nullptr) {
      {
        MutexLock lock(write_mu_);
        stream_->WritesDone();
      }
      if (reader_.joinable()) reader_.join();  // the agent closes its side on WritesDone
    }
  }

  absl::Status Connect() {
    const std::string target = absl::StrCat("unix:", options_.bootstrap.agent_socket());
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetMaxSendMessageSize(kMaxMessageBytes);
    channel_ = grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
    const auto deadline =
        std::chrono::system_clock::now() + absl::ToChronoMilliseconds(options_.connect_timeout);
    if (!channel_->WaitForConnected(deadline)) {
      return absl::UnavailableError(absl::StrCat("no agent answers at ", target, " within ",
                                                 absl::FormatDuration(options_.connect_timeout)));
    }
    stub_ = proto::WorkerHost::NewStub(channel_);
    stream_ = stub_->Session(&context_);
    proto::WorkerMessage hello;
    hello.mutable_hello()->set_token(options_.bootstrap.job_token());
    hello.mutable_hello()->set_slot(options_.bootstrap.slot());
    hello.mutable_hello()->set_pid(getpid());
    hello.mutable_hello()->set_protocol_version(kProtocolVersion);
    Send(Generation(0), std::move(hello));
    proto::HostMessage first;
    if (!stream_->Read(&first) || !first.has_welcome()) {
      const grpc::Status status = stream_->Finish();
      stream_.reset();
      return absl::Status(
          static_cast<absl::StatusCode>(status.ok() ? grpc::StatusCode::UNAVAILABLE
                                                    : status.error_code()),
          absl::StrCat("the agent at ", target, " did not welcome this worker: ",
                       status.ok() ? "the stream was closed" : status.error_message()));
    }
    job_ = first.welcome().job();
    reader_ = std::thread([this] { ReadAll(); });
    beat_thread_ = std::thread([this] { BeatUntilClosed(); });
    return absl::OkStatus();
  }

  const proto::JobSpec& job() const override { return job_; }
  absl::StatusOr<proto::GenerationPlan> WaitForPlan(Generation after) override {
    return state_.WaitForPlan(after);
  }
  bool Superseded(Generation generation) const override { return state_.Superseded(generation); }
  void OnSuperseded(Generation generation, std::function<void()> interrupt) override {
    state_.OnSuperseded(generation, std::move(interrupt));
  }
  bool StopRequested() const override { return state_.StopRequested(); }

  absl::StatusOr<std::vector<std::string>> Exchange(Generation generation, Rank rank,
                                                    const std::string& name,
                                                    const std::string& value) override {
    proto::WorkerMessage message;
    proto::ExchangePut* const put = message.mutable_exchange_put();
    put->set_name(name);
    put->set_rank(rank.value());
    put->set_value(value);
    Send(generation, std::move(message));
    return state_.WaitForTable(generation, name);
  }

  absl::StatusOr<std::vector<std::string>> AwaitTable(Generation generation,
                                                      const std::string& name,
                                                      absl::Duration timeout) override {
    return state_.WaitForTable(generation, name, timeout);
  }
  void OnSaveMessage(std::function<void(const proto::HostMessage&)> handler) override {
    state_.OnSaveMessage(std::move(handler));
  }

  void Send(Generation generation, proto::WorkerMessage message) override {
    message.set_job_id(options_.bootstrap.job_id());
    message.set_incarnation(options_.incarnation.value());
    message.set_generation(generation.value());
    MutexLock lock(write_mu_);
    stream_->Write(message);  // false: the stream is broken; the reader sees it too and ends us
  }

 private:
  void ReadAll() {
    std::string reason = "the agent closed the session";
    proto::HostMessage message;
    while (stream_->Read(&message)) {
      if (message.has_plan()) {
        state_.PlanAnnounced(message.plan());
      } else if (message.has_exchange_table()) {
        state_.TableArrived(Generation(message.generation()), message.exchange_table());
      } else if (message.has_commit_save() || message.has_drop_save()) {
        state_.SaveMessageArrived(message);
      } else if (message.has_take_stacks()) {
        MutexLock lock(beat_mu_);
        stacks_wanted_for_ = Generation(message.generation());
        beat_changed_.NotifyAll();
      } else if (message.has_stop()) {
        if (!message.stop().checkpoint_first()) {
          reason = "told to stop at once";
          break;
        }
        state_.StopAnnounced();
      }
    }
    state_.Ended();
    if (!closing_ && options_.on_over) options_.on_over(reason);
  }

  void BeatUntilClosed() {
    const absl::Duration interval =
        PositiveOr(job_.limits().heartbeat_interval(), kDefaultHeartbeatInterval);
    MutexLock lock(beat_mu_);
    while (!beat_stop_) {
      beat_mu_.Unlock();
      proto::WorkerMessage message;
      *message.mutable_beat() = options_.beat ? options_.beat() : proto::Beat();
      Send(state_.Newest(), std::move(message));
      beat_mu_.Lock();
      if (const auto wanted_for = std::exchange(stacks_wanted_for_, std::nullopt)) {
        beat_mu_.Unlock();
        SendStacks(*wanted_for);
        beat_mu_.Lock();
        continue;
      }
      if (!beat_stop_) beat_changed_.WaitFor(beat_mu_, interval);
    }
  }

  void SendStacks(Generation generation) {
    if (!options_.stacks) return;
    proto::WorkerMessage message;
    *message.mutable_stacks() = options_.stacks();
    Send(generation, std::move(message));
  }

  const SessionOptions options_;
  proto::JobSpec job_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<proto::WorkerHost::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<proto::WorkerMessage, proto::HostMessage>> stream_;
  SessionState state_;  // its own synchronisation

  Mutex write_mu_;  // one Write at a time
  std::atomic<bool> closing_{false};
  Mutex beat_mu_;
  CondVar beat_changed_;
  bool beat_stop_ ABSL_GUARDED_BY(beat_mu_) = false;
  std::optional<Generation> stacks_wanted_for_ ABSL_GUARDED_BY(beat_mu_);
  // Last: they use everything above.
  std::thread reader_;
  std::thread beat_thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> ConnectGrpcSession(SessionOptions options) {
  auto session = std::make_unique<GrpcSession>(std::move(options));
  if (absl::Status status = session->Connect(); !status.ok()) return status;
  return std::unique_ptr<Session>(std::move(session));
}

}  // namespace dsrun::worker
