// GrpcAgentClient against a real server in this process: order, ends, refusals, cancelling.

#include <gmock/gmock.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "common/rpc/server_stream.h"
#include "launcher/shell/grpc_agent_client.h"
#include "proto/agent_service.grpc.pb.h"
#include "tests/support/behind_a_door.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(20);

// Echoes each heartbeat's generation; `refuse` decides about the first message.
class EchoAgent : public proto::Agent::CallbackService {
 public:
  using Stream = ServerStream<proto::CoordinatorMessage, proto::AgentMessage>;

  absl::Status refusal;

  grpc::ServerBidiReactor<proto::CoordinatorMessage, proto::AgentMessage>* Session(
      grpc::CallbackServerContext*) override {
    Stream::Handler handler;
    handler.on_message = [this](const Stream::Ptr& stream, const proto::CoordinatorMessage& m) {
      proto::AgentMessage answer;
      answer.set_generation(m.generation());
      if (m.has_open() && !refusal.ok()) return stream->Close(refusal);
      if (m.has_open()) {
        answer.mutable_opened()->set_version(m.open().job().job_id() + m.open().job_token());
      }
      stream->Send(answer);
      if (m.has_end_job()) stream->Close(absl::OkStatus());
    };
    handler.on_gone = [this](const Stream::Ptr&) {
      MutexLock lock(mu_);
      gone_ = true;
      changed_.NotifyAll();
    };
    return Stream::Accept(std::move(handler));
  }

  bool AwaitGone() {
    MutexLock lock(mu_);
    while (!gone_) {
      if (!changed_.WaitFor(mu_, kPatience)) return gone_;
    }
    return true;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
};

// Says bytes of its own instead of messages, and keeps the stream open.
class RawAgent : public proto::Agent::WithRawCallbackMethod_Session<proto::Agent::Service> {
 public:
  using Stream = ServerStream<grpc::ByteBuffer, grpc::ByteBuffer>;

  std::vector<std::string> says;

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext*) override {
    return Stream::Accept({.on_message =
                               [this](const Stream::Ptr& stream, const grpc::ByteBuffer&) {
                                 for (const std::string& bytes : says) {
                                   const grpc::Slice slice(bytes);
                                   stream->Send(grpc::ByteBuffer(&slice, 1));
                                 }
                               },
                           .on_gone = [](const Stream::Ptr&) {}});
  }
};

// What a session said.
class Heard {
 public:
  AgentClient::Listener listener() {
    return {.on_message =
                [this](proto::AgentMessage message) {
                  MutexLock lock(mu_);
                  generations_.push_back(message.generation());
                  if (message.has_opened()) versions_.push_back(message.opened().version());
                  changed_.NotifyAll();
                },
            .on_end =
                [this](absl::Status why) {
                  MutexLock lock(mu_);
                  EXPECT_FALSE(end_.has_value()) << "told twice";
                  end_ = std::move(why);
                  changed_.NotifyAll();
                }};
  }
  std::vector<int64_t> AwaitMessages(size_t count) {
    MutexLock lock(mu_);
    while (generations_.size() < count && changed_.WaitFor(mu_, kPatience)) {
    }
    return generations_;
  }
  std::vector<std::string> versions() {
    MutexLock lock(mu_);
    return versions_;
  }
  absl::Status AwaitEnd() {
    MutexLock lock(mu_);
    while (!end_.has_value()) {
      if (!changed_.WaitFor(mu_, kPatience)) return absl::DeadlineExceededError("no end was told");
    }
    return *end_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::vector<int64_t> generations_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> versions_ ABSL_GUARDED_BY(mu_);  // as EchoAgent fills them
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
};

class AgentClientTest : public ::testing::Test {
 protected:
  std::string target() const { return served_->target(); }
  std::unique_ptr<AgentSession> OpenSession(Heard& heard) {
    return client_.Open(EndpointOf(*served_), Open(), nullptr, heard.listener());
  }
  static AgentEndpoint EndpointOf(BehindADoor& served) {
    return {.target = served.target(), .connection = std::make_shared<Connection>(served.Dial())};
  }
  static proto::CoordinatorMessage Open() {
    proto::CoordinatorMessage message;
    message.mutable_open();
    return message;
  }
  static proto::CoordinatorMessage Beat(int64_t generation) {
    proto::CoordinatorMessage message;
    message.set_generation(generation);
    message.mutable_heartbeat();
    return message;
  }

  EchoAgent agent_;
  std::unique_ptr<BehindADoor> served_ =
      std::make_unique<BehindADoor>(std::vector<grpc::Service*>{&agent_});
  Heard heard_;  // outlives the sessions
  GrpcAgentClient client_;
};

TEST_F(AgentClientTest, Messages_KeepTheirOrderBothWays) {
  const std::unique_ptr<AgentSession> session = OpenSession(heard_);
  std::vector<int64_t> expected = {0};
  for (int64_t i = 1; i <= 500; ++i) {
    session->Send(Beat(i));
    expected.push_back(i);
  }
  EXPECT_EQ(heard_.AwaitMessages(501), expected);
}

TEST_F(AgentClientTest, AgentClosesTheStream_EndsOk) {
  const std::unique_ptr<AgentSession> session = OpenSession(heard_);
  proto::CoordinatorMessage end;
  end.mutable_end_job();
  session->Send(end);
  EXPECT_TRUE(heard_.AwaitEnd().ok());
  EXPECT_EQ(heard_.AwaitMessages(2).size(), 2u);
  session->Send(Beat(9));  // harmless
}

TEST_F(AgentClientTest, Refusal_ComesWithItsCodeAndTheAddress) {
  agent_.refusal = absl::UnauthenticatedError("cluster key: expected ours");
  const std::unique_ptr<AgentSession> session = OpenSession(heard_);
  const absl::Status end = heard_.AwaitEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(end.message()), HasSubstr("cluster key: expected ours"));
  EXPECT_THAT(std::string(end.message()), HasSubstr(target()));
}

TEST_F(AgentClientTest, RefusalThatIsNotUtf8_ComesAsItIs) {
  agent_.refusal = absl::FailedPreconditionError("save folder caf\xe9 \xff: expected a file");
  const std::unique_ptr<AgentSession> session = OpenSession(heard_);
  const absl::Status end = heard_.AwaitEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(end.message()), HasSubstr("save folder caf\xe9 \xff: expected"));
}

TEST_F(AgentClientTest, MessageThatCannotBeDecoded_EndsTheStreamAndIsSaid) {
  proto::AgentMessage good;
  good.set_generation(7);
  const std::string spoilt = "\x0a\x04\xff\xff\xff\xff";  // job_id, which has to be UTF-8
  RawAgent agent;
  agent.says = {good.SerializeAsString(), spoilt, good.SerializeAsString()};
  BehindADoor served({&agent});
  const std::unique_ptr<AgentSession> session =
      client_.Open(EndpointOf(served), Open(), nullptr, heard_.listener());
  const absl::Status end = heard_.AwaitEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(end.message()), HasSubstr(served.target()));
  EXPECT_THAT(std::string(end.message()),
              HasSubstr("a message of 6 bytes cannot be decoded; expected one of type "
                        "dsrun.proto.AgentMessage"));
  EXPECT_EQ(heard_.AwaitMessages(1), std::vector<int64_t>{7});  // nothing after the spoilt one
}

TEST_F(AgentClientTest, AgentGoesBetweenItsProofAndTheOpen_EndsUnavailableWithAdvice) {
  const std::string address = target();
  const AgentEndpoint endpoint = EndpointOf(*served_);
  served_.reset();
  const std::unique_ptr<AgentSession> session =
      client_.Open(endpoint, Open(), nullptr, heard_.listener());
  const absl::Status end = heard_.AwaitEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("it has proven itself and then gone"));
  EXPECT_THAT(std::string(end.message()), HasSubstr(address));
}

TEST_F(AgentClientTest, ConnectionIsGoodForOneSession) {
  const AgentEndpoint endpoint = EndpointOf(*served_);
  const std::unique_ptr<AgentSession> session =
      client_.Open(endpoint, Open(), nullptr, heard_.listener());
  Heard again;
  const std::unique_ptr<AgentSession> second =
      client_.Open(endpoint, Open(), nullptr, again.listener());
  EXPECT_EQ(again.AwaitEnd().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(heard_.AwaitMessages(1).size(), 1u);
}

// What all agents are told alike is one piece of memory, and lives until the last of them has it.
TEST_F(AgentClientTest, RestOfTheOpen_IsMergedAndShared) {
  proto::CoordinatorMessage rest, own;
  rest.mutable_open()->mutable_job()->set_job_id("the job ");
  own.mutable_open()->set_job_token("and its token");
  auto bytes = std::make_shared<const std::string>(rest.SerializeAsString());
  const std::weak_ptr<const std::string> watched = bytes;
  {
    Heard heard[2];
    std::vector<std::unique_ptr<AgentSession>> sessions;
    for (Heard& each : heard) {
      sessions.push_back(client_.Open(EndpointOf(*served_), own, bytes, each.listener()));
    }
    bytes.reset();
    for (Heard& each : heard) {
      ASSERT_EQ(each.AwaitMessages(1).size(), 1u);
      EXPECT_EQ(each.versions(), std::vector<std::string>{"the job and its token"});
    }
  }
  EXPECT_TRUE(watched.expired());
}

TEST_F(AgentClientTest, Cancel_EndsBothSides) {
  const std::unique_ptr<AgentSession> session = OpenSession(heard_);
  EXPECT_EQ(heard_.AwaitMessages(1).size(), 1u);
  session->Cancel();
  EXPECT_EQ(heard_.AwaitEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(agent_.AwaitGone());
}

TEST_F(AgentClientTest, Destructor_WaitsForTheLastCallback) {
  for (int i = 0; i < 50; ++i) {
    Heard heard;  // would be used after its end if a callback came late
    const std::unique_ptr<AgentSession> session = OpenSession(heard);
    session->Send(Beat(i));
  }
}

TEST_F(AgentClientTest, ServerDies_EndsUnavailableOrCancelled) {
  const std::unique_ptr<AgentSession> session = OpenSession(heard_);
  EXPECT_EQ(heard_.AwaitMessages(1).size(), 1u);
  served_.reset();
  EXPECT_FALSE(heard_.AwaitEnd().ok());
}

}  // namespace
}  // namespace dsrun::launcher
