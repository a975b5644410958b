// A real dsagent, and what strangers may say to its port and its socket: it stays up, tells nobody
// anything, and serves the next job. Played from a seed that is printed (SEED gives it back).

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/process_tree.h"
#include "tests/agent/agent_client.h"
#include "tests/agent/dsagent_process.h"
#include "tests/support/random_messages.h"

namespace dsrun::agent {
namespace {

constexpr char kHttp2Preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr int kVisitors = 200;

// Connects, says `bytes` and hangs up. Whether it is heard or not is the other side's matter.
void Say(const sockaddr* address, socklen_t size, const std::string& bytes) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(connect(fd, address, size), 0) << strerror(errno);
  (void)!send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  shutdown(fd, SHUT_WR);
  // Until it hangs up too; one that waits for more is left alone after a moment.
  pollfd closing{.fd = fd, .events = POLLIN, .revents = 0};
  char answer[4096];
  while (poll(&closing, 1, 50) > 0 && recv(fd, answer, sizeof(answer), 0) > 0) {
  }
  close(fd);
}

void SayToPort(int port, const std::string& bytes) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  Say(reinterpret_cast<const sockaddr*>(&address), sizeof(address), bytes);
}

void SayToSocket(const std::string& path, const std::string& bytes) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  Say(reinterpret_cast<const sockaddr*>(&address), sizeof(address), bytes);
}

std::string Garbage(RandomMessages& random) {
  switch (random.Below(4)) {
    case 0:
      return "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    case 1:
      return random.Bytes(2000);
    case 2:
      return kHttp2Preface + random.Bytes(2000);
    default: {  // a frame of HTTP/2 that promises 16 MiB
      std::string frame = kHttp2Preface;
      frame += std::string("\xff\xff\xff", 3) + random.Bytes(300);
      return frame;
    }
  }
}

// Admitted to the node, which may need a moment to see that the last job's dsrun is gone.
std::unique_ptr<AgentClient> Admitted(const std::string& target, const std::string& job_id) {
  while (true) {
    auto client = std::make_unique<AgentClient>(target);
    client->Send(AgentClient::Open(job_id, RunDir(), Rank("wait"), 1));
    if (client->AwaitOrEnd([](const auto& m) { return m.has_opened(); }).has_value()) return client;
    const absl::Status refused = client->AwaitEnd();
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
    if (!absl::IsResourceExhausted(refused)) return client;
  }
}

void ExpectServed(const std::string& target, const std::string& job_id) {
  const std::unique_ptr<AgentClient> admitted = Admitted(target, job_id);
  AgentClient& client = *admitted;
  client.Send(AgentClient::Begin(job_id, 1, {0}));
  EXPECT_TRUE(client.AwaitLine("ready ").has_value());
  proto::CoordinatorMessage end = AgentClient::Message(job_id, 1);
  end.mutable_end_job();
  client.Send(end);
  EXPECT_TRUE(client.Await([](const auto& m) { return m.has_job_ended(); }).has_value());
  EXPECT_TRUE(client.AwaitEnd().ok());
}

void ExpectServed(const DsagentProcess& agent, const std::string& job_id) {
  ExpectServed(absl::StrCat("127.0.0.1:", agent.port()), job_id);
}

// A port and a unix socket have the same door; each is shown to half of the visitors.
TEST(DsagentGarbage, OnItsPortOrItsSocket_IsDroppedAndTheNextJobServed) {
  RandomMessages random(TestSeed());
  const SocketFolder folder;
  const std::string path = folder.path() + "/agent.sock";
  DsagentProcess agent;
  DsagentProcess local({"--listen=unix:" + path});
  const int32_t pid = agent.agent_pid();
  const int32_t local_pid = local.agent_pid();
  for (int i = 0; i < kVisitors && !::testing::Test::HasFatalFailure(); ++i) {
    if (random.OneIn(2)) {
      SayToPort(agent.port(), Garbage(random));
    } else {
      SayToSocket(path, Garbage(random));
    }
  }
  EXPECT_EQ(agent.agent_pid(), pid);
  EXPECT_EQ(local.agent_pid(), local_pid);
  ExpectServed(absl::StrCat("127.0.0.1:", agent.port()), "next");
  ExpectServed("unix:" + path, "next");
}

// Of one who has the key.
TEST(DsagentGarbage, FirstMessages_AreRefusedAndTheNextJobServed) {
  RandomMessages random(TestSeed());
  random.SetWords({"job", "127.0.0.1"});
  DsagentProcess agent;
  for (int i = 0; i < 40; ++i) {
    proto::CoordinatorMessage message;
    random.Fill(message);
    if (random.OneIn(2)) random.Fill(*message.mutable_open());
    if (message.has_open()) message.mutable_open()->set_protocol_version(2);
    AgentClient client(agent.port());
    client.Send(message);
    EXPECT_EQ(client.AwaitEnd().code(), absl::StatusCode::kInvalidArgument);
  }
  ExpectServed(agent, "next");
}

TEST(DsagentGarbage, AfterTheOpen_IsDroppedAndTheJobStillEndsInOrder) {
  RandomMessages random(TestSeed());
  random.SetWords({"job", "127.0.0.1"});
  DsagentProcess agent;
  {
    AgentClient client(agent.port());
    client.Send(AgentClient::Open("job", RunDir(), Rank("wait"), 2));
    client.Send(AgentClient::Begin("job", 1, {0, 1}));
    EXPECT_TRUE(client.AwaitLine("ready ").has_value());
    for (int i = 0; i < 400; ++i) {
      proto::CoordinatorMessage message;
      random.Fill(message);
      if (!random.OneIn(4)) {
        message.set_job_id("job");
        message.set_incarnation(0);
        message.set_generation(1 + random.Below(3));
      }
      if (message.has_end_job()) continue;  // comes at the end
      client.Send(message);
    }
    proto::CoordinatorMessage end = AgentClient::Message("job", 1);
    end.mutable_end_job();
    client.Send(end);
    EXPECT_TRUE(client.Await([](const auto& m) { return m.has_job_ended(); }).has_value());
    EXPECT_TRUE(client.AwaitEnd().ok());
  }
  EXPECT_EQ(DescendantsOf(agent.keeper_pid()).size(), 1u) << "only the agent itself";
  ExpectServed(agent, "next");
}

// As from a dsrun of another version. The two sides say the same, and the node is free again.
TEST(DsagentGarbage, MessageThatCannotBeDecoded_IsSaidOnBothSides) {
  testing::internal::CaptureStderr();  // the agent's, too
  {
    DsagentProcess agent;
    for (const bool first : {true, false}) {
      AgentClient client(agent.port());
      proto::CoordinatorMessage message;
      if (!first) {
        client.Send(AgentClient::Open("job", RunDir(), Rank("wait"), 1));
        EXPECT_TRUE(client.Await([](const auto& m) { return m.has_opened(); }).has_value());
      }
      message.set_job_id("caf\xe9");  // which has to be UTF-8
      client.Send(message);
      const absl::Status end = client.AwaitEnd();
      EXPECT_EQ(end.code(), absl::StatusCode::kDataLoss) << end;
      EXPECT_THAT(std::string(end.message()),
                  testing::HasSubstr("a message of 6 bytes cannot be decoded; expected one of type "
                                     "dsrun.proto.CoordinatorMessage"));
    }
    ExpectServed(agent, "next");
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, testing::ContainsRegex("is sent away: DATA_LOSS: a message of 6 bytes cannot"));
}

}  // namespace
}  // namespace dsrun::agent
