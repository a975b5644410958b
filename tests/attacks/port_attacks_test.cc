// Another user of the machine against the port of a running agent, and in its place.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <list>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/rpc/dial.h"
#include "common/rpc/door.h"
#include "common/rpc/greeting.h"
#include "common/rpc/secrets.h"
#include "common/rpc/sockets.h"
#include "tests/agent/agent_client.h"
#include "tests/agent/dsagent_process.h"
#include "tests/attacks/attacker.h"
#include "tests/integration/job_fixture.h"

namespace dsrun {
namespace {

using agent::AgentClient;
using agent::DsagentProcess;
using agent::Rank;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kSecret[] = "a-secret-of-the-users-environment";
constexpr char kArgument[] = "an-argument-of-the-users-program";

SteadyTime Deadline() { return Clock::Real().SteadyNow() + absl::Seconds(20); }

std::string Target(const DsagentProcess& agent) { return absl::StrCat("127.0.0.1:", agent.port()); }

class PortAttack : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "NOT SHOWN: only root can become another user";
    std::ofstream(Path("key")) << DsagentProcess::kKey << "\n";
    chmod(Path("key").c_str(), 0600);
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  // What dsrun is told about an agent that runs at `port`.
  std::vector<std::string> JobAt(const std::string& port) {
    std::ofstream(Path("hosts")) << "127.0.0.1:" << port << " slots=1\n";
    return {"--hostfile", Path("hosts"), "--cluster-key-file", Path("key"), UserProgram(), "exit",
            "0",          kArgument};
  }
  static Job::Options WithSecret() { return {.environment = {absl::StrCat("A_SECRET=", kSecret)}}; }

  TemporaryFolder folder_;
};

void ServesAJob(const std::string& target) {
  const TemporaryFolder run;
  AgentClient client(target);
  client.Send(AgentClient::Open("after", run.path(), Rank("exit", "0"), 1));
  EXPECT_TRUE(client.Await([](const auto& m) { return m.has_opened(); }).has_value());
}

// ---- In the agent's place

// Listens, answers every connection with `answer`, and says all that it heard at its end.
void Impostor(const std::string& answer, int out, int stop) {
  const absl::StatusOr<ListeningSocket> listening = ListenOn("127.0.0.1:0");
  if (!listening.ok()) return;
  SayLine(out, absl::StrCat(listening->port));
  std::list<Descriptor> connections;
  std::string heard;
  while (!IsToStop(stop)) {
    std::vector<pollfd> fds = {{stop, POLLIN, 0}, {listening->fd.get(), POLLIN, 0}};
    for (const Descriptor& fd : connections) fds.push_back({fd.get(), POLLIN, 0});
    poll(fds.data(), fds.size(), 1000);
    size_t at = 2;
    for (auto fd = connections.begin(); fd != connections.end();) {
      char buffer[4096];
      const bool ready = fds[at++].revents != 0;
      const ssize_t count = ready ? recv(fd->get(), buffer, sizeof(buffer), 0) : 1;
      if (ready && count > 0) heard.append(buffer, count);
      fd = count > 0 ? std::next(fd) : connections.erase(fd);
    }
    if (fds[1].revents == 0) continue;
    connections.push_back(Descriptor(accept(listening->fd.get(), nullptr, nullptr)));
    (void)!send(connections.back().get(), answer.data(), answer.size(), MSG_NOSIGNAL);
  }
  (void)!write(out, heard.data(), heard.size());
}

TEST_F(PortAttack, ImpostorOnThePortOfAnAgentThatIsDown_GetsNoKeyNoTokenNoEnvironment) {
  struct Row {
    std::string answer;
    int exit_code;
    const char* words;
  };
  // A greeting that it cannot prove; and the frame with which a server of gRPC begins, after which
  // a dsrun of earlier versions told it everything.
  std::string greeting =
      CoordinatorGreeting("a key of its own", "", RandomBytes(kNonceBytes)).call();
  greeting.resize(kAnswerBytes, 'x');
  const std::vector<Row> table = {
      {greeting, 92, "could not prove"},
      {std::string("\0\0\0\4\0\0\0\0\0", 9) + std::string(100, '\0'), 91, "speaks HTTP/2"},
  };
  for (const Row& row : table) {
    Attacker impostor(kStranger, [&](int out, int stop) { Impostor(row.answer, out, stop); });
    Job job(JobAt(impostor.Line()), WithSecret());
    EXPECT_EQ(job.AwaitExit(), row.exit_code) << job.Words();
    EXPECT_THAT(job.err(), HasSubstr(row.words));
    const std::string heard = impostor.Finish();
    // A call: magic bytes and a random number. Nothing else fits into it.
    EXPECT_EQ(heard.size(), kCallBytes);
    EXPECT_TRUE(BeginsAsGreeting(heard));
    for (const std::string& secret :
         {std::string(DsagentProcess::kKey), std::string(kSecret), std::string(kArgument),
          UserProgram(), absl::BytesToHexString(DsagentProcess::kKey)}) {
      EXPECT_THAT(heard, Not(HasSubstr(secret)));
    }
  }
}

// Passes one connection on to `to` and back.
void Relay(const std::string& to, int out, int stop) {
  const absl::StatusOr<ListeningSocket> listening = ListenOn("127.0.0.1:0");
  if (!listening.ok()) return;
  SayLine(out, absl::StrCat(listening->port));
  std::list<std::pair<Descriptor, Descriptor>> pairs;
  while (!IsToStop(stop)) {
    std::vector<pollfd> fds = {{stop, POLLIN, 0}, {listening->fd.get(), POLLIN, 0}};
    for (const auto& [near, far] : pairs) {
      fds.push_back({near.get(), POLLIN, 0});
      fds.push_back({far.get(), POLLIN, 0});
    }
    poll(fds.data(), fds.size(), 1000);
    size_t at = 2;
    for (auto pair = pairs.begin(); pair != pairs.end();) {
      bool open = true;
      for (const bool forth : {true, false}) {
        if (fds[at++].revents == 0) continue;
        char buffer[4096];
        const Descriptor& from = forth ? pair->first : pair->second;
        const Descriptor& into = forth ? pair->second : pair->first;
        const ssize_t count = recv(from.get(), buffer, sizeof(buffer), 0);
        open = open && count > 0 && send(into.get(), buffer, count, MSG_NOSIGNAL) == count;
      }
      pair = open ? std::next(pair) : pairs.erase(pair);
    }
    if (fds[1].revents == 0) continue;
    Descriptor near(accept(listening->fd.get(), nullptr, nullptr));
    absl::StatusOr<Descriptor> far = ConnectTo(to, Deadline());
    if (far.ok()) pairs.emplace_back(std::move(near), *std::move(far));
  }
}

TEST_F(PortAttack, RelayToARealAgent_GetsNoJobThrough) {
  DsagentProcess agent;
  Attacker relay(kStranger, [&](int out, int stop) { Relay(Target(agent), out, stop); });
  Job job(JobAt(relay.Line()), WithSecret());
  EXPECT_EQ(job.AwaitExit(), 92) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("could not prove"));
  ServesAJob(Target(agent));
}

TEST_F(PortAttack, BytesOfAnEarlierCoordinator_OpenNothing) {
  DsagentProcess agent;
  CoordinatorGreeting honest(DsagentProcess::kKey, Target(agent), RandomBytes(kNonceBytes));
  const auto hear = [](const Descriptor& fd, size_t size) {
    std::string heard;
    pollfd ready{.fd = fd.get(), .events = POLLIN, .revents = 0};
    char buffer[kAnswerBytes];
    while (heard.size() < size && poll(&ready, 1, 20'000) > 0) {
      const ssize_t count = recv(fd.get(), buffer, size - heard.size(), 0);
      if (count <= 0) break;
      heard.append(buffer, count);
    }
    return heard;
  };
  const auto say = [](const Descriptor& fd, const std::string& bytes) {
    (void)!send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  };
  std::string claim;
  {
    const absl::StatusOr<Descriptor> fd = ConnectTo(Target(agent), Deadline());
    ASSERT_TRUE(fd.ok()) << fd.status();
    say(*fd, honest.call());
    claim = honest.TakeAnswer(hear(*fd, kAnswerBytes)).value_or("");
    say(*fd, claim);
    EXPECT_TRUE(honest.TakeVerdict(hear(*fd, kVerdictBytes)).ok());
  }
  const std::string verdict = AsUser(kStranger, [&]() -> std::string {
    const absl::StatusOr<Descriptor> fd = ConnectTo(Target(agent), Deadline());
    if (!fd.ok()) return fd.status().ToString();
    say(*fd, honest.call());
    const std::string answer = hear(*fd, kAnswerBytes);
    say(*fd, claim);
    return absl::StrCat(answer.size(), " and ", hear(*fd, kVerdictBytes).size());
  });
  EXPECT_EQ(verdict, absl::StrCat(kAnswerBytes, " and 0"));
  ServesAJob(Target(agent));
}

// ---- Against the agent

int DescriptorsOf(pid_t pid) {
  const std::filesystem::directory_iterator all(absl::StrCat("/proc/", pid, "/fd"));
  return static_cast<int>(std::distance(begin(all), end(all)));
}

int64_t PeakMemoryOf(pid_t pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  int64_t kib = 0;
  for (std::string line; std::getline(status, line);) {
    if (sscanf(line.c_str(), "VmHWM: %ld kB", &kib) == 1) break;
  }
  return kib << 10;
}

// Opens `count` connections, says so, and holds them.
void HoldIdle(const std::string& target, int count, int out, int stop) {
  std::list<Descriptor> held;
  for (int i = 0; i < count; ++i) {
    absl::StatusOr<Descriptor> fd = ConnectTo(target, Deadline());
    if (!fd.ok()) return SayLine(out, fd.status().ToString());
    held.push_back(*std::move(fd));
  }
  SayLine(out, "held");
  AwaitStop(stop);
}

TEST_F(PortAttack, FifteenHundredIdleConnections_AndAJobStillReplacesItsRank) {
  constexpr rlim_t kDescriptors = 1024;
  DsagentProcess agent;
  const rlimit few = {kDescriptors, kDescriptors};
  ASSERT_EQ(prlimit(agent.agent_pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  AgentClient client(Target(agent));
  const TemporaryFolder run;
  client.Send(AgentClient::Open("j", run.path(), Rank("wait"), 1));
  client.Send(AgentClient::Begin("j", 1, {0}));
  int pid = 0;
  sscanf(client.AwaitLine("ready ").value_or("").c_str(), "ready %d", &pid);
  ASSERT_GT(pid, 0);
  // Each of them may have as many as a user usually may.
  std::list<Attacker> attackers;
  for (int i = 0; i < 2; ++i) {
    attackers.emplace_back(kStranger,
                           [&](int out, int stop) { HoldIdle(Target(agent), 750, out, stop); });
  }
  for (Attacker& attacker : attackers) EXPECT_EQ(attacker.Line(), "held");
  EXPECT_LT(DescriptorsOf(agent.agent_pid()), 150);
  kill(pid, SIGKILL);
  EXPECT_TRUE(client.Await([](const auto& m) { return m.has_worker_exited(); }).has_value());
  client.Send(AgentClient::Begin("j", 2, {0}));
  EXPECT_TRUE(
      client.Await([](const auto& m) { return m.has_worker_started() && m.generation() == 2; })
          .has_value());
  // And whoever has the key is heard.
  EXPECT_TRUE(DialAgent(Target(agent), DsagentProcess::kKey, absl::Seconds(20)).ok());
}

// Connects as fast as it can, and holds what it can hold.
void ConnectWithoutEnd(const std::string& target, int out, int stop) {
  std::list<Descriptor> held;
  SayLine(out, "begun");
  while (!IsToStop(stop)) {
    absl::StatusOr<Descriptor> fd = ConnectTo(target, Deadline());
    if (fd.ok()) held.push_back(*std::move(fd));
    if (held.size() > 500) held.pop_front();
  }
}

bool IsHungUp(const Descriptor& fd) {
  pollfd end{.fd = fd.get(), .events = POLLRDHUP, .revents = 0};
  return poll(&end, 1, 0) > 0;
}

// Says the first words of a greeting on twice as many connections as an agent has places, stops
// there, and puts another one in the place of each that it loses.
void CallAndStopThere(const std::string& target, int out, int stop) {
  const size_t wanted = 2 * Door::Options().most_unproven;
  const std::string call = CoordinatorGreeting("guessed", "", RandomBytes(kNonceBytes)).call();
  std::list<Descriptor> held;
  bool begun = false;
  while (!IsToStop(stop)) {
    absl::StatusOr<Descriptor> fd = ConnectTo(target, Deadline());
    if (!fd.ok()) continue;
    (void)!send(fd->get(), call.data(), call.size(), MSG_NOSIGNAL);
    held.push_back(*std::move(fd));
    while (held.size() >= wanted && !IsToStop(stop)) held.remove_if(IsHungUp);
    if (!std::exchange(begun, held.size() + 1 >= wanted) && begun) SayLine(out, "begun");
  }
}

TEST_F(PortAttack, ConnectionsWithoutEnd_KeepNobodyOut) {
  DsagentProcess agent;
  Attacker attacker(kStranger,
                    [&](int out, int stop) { ConnectWithoutEnd(Target(agent), out, stop); });
  EXPECT_EQ(attacker.Line(), "begun");
  for (int i = 0; i < 10; ++i) {
    const auto connection = DialAgent(Target(agent), DsagentProcess::kKey, absl::Seconds(20));
    EXPECT_TRUE(connection.ok()) << connection.status();
  }
  ServesAJob(Target(agent));
}

// Anybody can say the first words of a greeting: whoever does looks like an honest caller until he
// has to prove himself, and never does. Beside him two that say nothing.
TEST_F(PortAttack, CallsWithoutEnd_KeepNobodyOut) {
  const absl::Duration of_a_greeting = Door::Options().prove_within;
  DsagentProcess agent;
  Attacker calls(kStranger, [&](int out, int stop) { CallAndStopThere(Target(agent), out, stop); });
  EXPECT_EQ(calls.Line(), "begun");
  std::list<Attacker> silent;
  for (int i = 0; i < 2; ++i) {
    silent.emplace_back(kStranger,
                        [&](int out, int stop) { ConnectWithoutEnd(Target(agent), out, stop); });
  }
  for (Attacker& each : silent) EXPECT_EQ(each.Line(), "begun");
  std::vector<std::thread> honest;
  for (int i = 0; i < 4; ++i) {
    honest.emplace_back([&] {
      for (int dialled = 0; dialled < 25; ++dialled) {
        const auto connection = DialAgent(Target(agent), DsagentProcess::kKey, of_a_greeting);
        EXPECT_TRUE(connection.ok()) << connection.status();
      }
    });
  }
  for (std::thread& each : honest) each.join();
  ServesAJob(Target(agent));
}

// `begin`, and then as much as it is let, up to 60 MiB; holds the connection.
void Pour(const std::string& target, const std::string& begin, std::list<Descriptor>& held) {
  constexpr size_t kMost = 60 << 20;
  absl::StatusOr<Descriptor> fd = ConnectTo(target, Deadline());
  if (!fd.ok()) return;
  const std::string zeros(64 << 10, '\0');
  (void)!send(fd->get(), begin.data(), begin.size(), MSG_NOSIGNAL);
  pollfd room{.fd = fd->get(), .events = POLLOUT, .revents = 0};
  for (size_t sent = 0; sent < kMost && poll(&room, 1, 20) > 0;) {
    const ssize_t count = send(fd->get(), zeros.data(), zeros.size(), MSG_NOSIGNAL);
    if (count <= 0) break;
    sent += count;
  }
  held.push_back(*std::move(fd));
}

TEST_F(PortAttack, FortyUnfinishedMessagesOfSixtyMebibytes_TakeNoMemory) {
  DsagentProcess agent;
  const int64_t before = PeakMemoryOf(agent.agent_pid());
  ASSERT_GT(before, 0);
  Attacker attacker(kStranger, [&](int out, int stop) {
    // A stream of HTTP/2, a greeting that goes on, and nothing that anybody knows.
    const std::string call = CoordinatorGreeting("guessed", "", RandomBytes(kNonceBytes)).call();
    const std::string begins[] = {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", call, call.substr(0, 20), ""};
    std::list<Descriptor> held;
    for (int i = 0; i < 40; ++i) Pour(Target(agent), begins[i % 4], held);
    SayLine(out, "poured");
    AwaitStop(stop);
  });
  EXPECT_EQ(attacker.Line(), "poured");
  EXPECT_LT(PeakMemoryOf(agent.agent_pid()) - before, 8 << 20);
  ServesAJob(Target(agent));
}

// A socket of a path is for its user and root, even where its file says otherwise.
TEST_F(PortAttack, UnixSocketOfAnAgent_IsForItsUserAlone) {
  const TemporaryFolder folder("/tmp");
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  const std::string path = folder.path() + "/agent.sock";
  DsagentProcess agent({"--listen=unix:" + path});
  const auto call = [&] {
    return AsUser(kStranger, [&] {
      // Even with the key.
      return DialAgent("unix:" + path, DsagentProcess::kKey, absl::Seconds(20)).status().ToString();
    });
  };
  EXPECT_THAT(call(), HasSubstr("Permission denied"));
  ASSERT_EQ(chmod(path.c_str(), 0666), 0);
  EXPECT_THAT(call(), HasSubstr("PERMISSION_DENIED: by the kernel's word"));
  ServesAJob("unix:" + path);
}

}  // namespace
}  // namespace dsrun
