#include "worker/engine/grpc_session.h"

#include <grpcpp/grpcpp.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/heartbeat.h"
#include "common/base/mutex.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "common/rpc/channel.h"
#include "common/rpc/dial.h"
#include "common/rpc/introduction.h"
#include "proto/agent_service.grpc.pb.h"
#include "worker/engine/session_state.h"

namespace dsrun::worker {
namespace {

constexpr int kProtocolVersion = 1;
// For a thread to come to its end by itself, before its stream is cancelled.
constexpr absl::Duration kFarewell = absl::Seconds(2);

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
    // A beat may be stuck in a stream that the agent does not read.
    CancelUnlessOver(beat_over_);
    if (beat_thread_.joinable()) beat_thread_.join();
    if (stream_ != nullptr) {
      {
        MutexLock lock(write_mu_);
        stream_->WritesDone();
      }
      CancelUnlessOver(reader_over_);  // the agent closes its side on WritesDone
    }
    if (reader_.joinable()) reader_.join();
  }

  absl::Status Connect() {
    const proto::WorkerBootstrap& bootstrap = options_.bootstrap;
    // Who listens there is looked at before the token is told to anybody.
    absl::StatusOr<Connection> connection =
        DialHost(bootstrap.agent_socket(), bootstrap.agent_uid(), bootstrap.agent_pid(),
                 options_.connect_timeout);
    if (!connection.ok()) {
      return Annotate(connection.status(), absl::StrCat("agent at ", bootstrap.agent_socket()));
    }
    const std::string target = connection->target;
    Introduce(context_, connection->ticket);
    // Without: an agent that is stopped is its keeper's business, and beats find a broken stream.
    channel_ = MakeChannel(*std::move(connection), Keepalive::kOff);
    stub_ = proto::WorkerHost::NewStub(channel_);
    stream_ = stub_->Session(&context_);
    proto::WorkerMessage hello;
    hello.mutable_hello()->set_token(bootstrap.job_token());
    hello.mutable_hello()->set_slot(bootstrap.slot());
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
    return StartThreads();
  }

  const proto::JobSpec& job() const override { return job_; }
  absl::StatusOr<proto::GenerationPlan> WaitForPlan(Generation after) override {
    return state_.WaitForPlan(after);
  }
  bool Superseded(Generation generation) const override { return state_.Superseded(generation); }
  void OnSuperseded(Generation generation, std::function<void()> interrupt) override {
    state_.OnSuperseded(generation, std::move(interrupt));
  }
  bool StopRequested() const override { return state_.StopRequested() || StopSignal() != 0; }

  absl::StatusOr<std::vector<std::string>> Exchange(Generation generation, Rank rank,
                                                    const std::string& group,
                                                    const std::string& name,
                                                    const std::string& value) override {
    proto::WorkerMessage message;
    proto::ExchangePut* const put = message.mutable_exchange_put();
    put->set_group(group);
    put->set_name(name);
    put->set_rank(rank.value());
    put->set_value(value);
    Send(generation, std::move(message));
    return state_.WaitForTable(generation, name, absl::InfiniteDuration(), group);
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
    if (message.has_finished() && message.finished().stopped_early()) TellOfStopSignal();
    message.set_job_id(options_.bootstrap.job_id());
    message.set_incarnation(options_.incarnation.value());
    message.set_generation(generation.value());
    MutexLock lock(write_mu_);
    stream_->Write(message);  // false: the stream is broken; the reader sees it too and ends us
  }

 private:
  // One of the two threads, as the destructor waits for it.
  struct Over {
    Mutex mu;
    CondVar changed;
    bool over ABSL_GUARDED_BY(mu) = true;  // it does not run

    void Set(bool value) {
      MutexLock lock(mu);
      over = value;
      changed.NotifyAll();
    }
    bool Await(absl::Duration limit) {
      const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
      MutexLock lock(mu);
      while (!over) {
        const absl::Duration left = deadline - Clock::Real().SteadyNow();
        if (left <= absl::ZeroDuration()) return false;
        changed.WaitFor(mu, left);
      }
      return true;
    }
  };

  absl::Status StartThreads() {
    // The flags first: who is destroyed half started must not wait for what never ran.
    reader_over_.Set(false);
    absl::StatusOr<std::thread> reader = StartThread("what the agent says", [this] {
      ReadAll();
      reader_over_.Set(true);
    });
    if (!reader.ok()) {
      reader_over_.Set(true);
      return reader.status();
    }
    reader_ = *std::move(reader);
    beat_over_.Set(false);
    absl::StatusOr<std::thread> beat = StartThread("the beat", [this] {
      BeatUntilClosed();
      beat_over_.Set(true);
    });
    if (!beat.ok()) {
      beat_over_.Set(true);
      return beat.status();
    }
    beat_thread_ = *std::move(beat);
    return absl::OkStatus();
  }

  // No wait without a bound: a stream that is cancelled lets go of whoever reads or writes it.
  void CancelUnlessOver(Over& thread) {
    if (!thread.Await(kFarewell)) context_.TryCancel();
  }

  int StopSignal() const { return options_.stop_signal ? options_.stop_signal() : 0; }

  // The operator learns what made the job stop, unless it is known: the coordinator asked.
  void TellOfStopSignal() {
    const int signal = StopSignal();
    if (signal == 0 || state_.StopRequested() || told_of_signal_.exchange(true)) return;
    const char* const name = sigabbrev_np(signal);
    proto::WorkerMessage message;
    message.mutable_notice()->set_text(
        absl::StrCat("its dsworker (pid ", getpid(), ") got SIG", name == nullptr ? "?" : name,
                     ": the job's ranks finish their step, save and stop"));
    Send(state_.Newest(), std::move(message));
  }

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
    bool signalled = false;
    while (!beat_stop_) {
      beat_mu_.Unlock();
      // A beat later: a signal that everybody got comes with the coordinator's own request.
      if (signalled) TellOfStopSignal();
      signalled = StopSignal() != 0;
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
  std::atomic<bool> told_of_signal_{false};
  Over reader_over_;
  Over beat_over_;
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
