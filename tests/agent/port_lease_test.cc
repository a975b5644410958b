// Leases of ports on the real network of this machine; every port is one that the kernel gave.

#include "agent/port_lease.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dsrun::agent {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::Eq;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Lt;
using ::testing::Not;

// A socket that listens at a port that the kernel chooses.
class Listener {
 public:
  explicit Listener(const char* address) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in where = {};
    where.sin_family = AF_INET;
    inet_pton(AF_INET, address, &where.sin_addr);
    socklen_t size = sizeof(where);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&where), size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&where), &size), 0);
    port_ = ntohs(where.sin_port);
  }
  ~Listener() { close(fd_); }
  int port() const { return port_; }

 private:
  int fd_;
  int port_ = 0;
};

// A program's own bind, without any option.
bool CanListen(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<uint16_t>(port));
  const bool can =
      bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)) == 0 && listen(fd, 1) == 0;
  close(fd);
  return can;
}

TEST(PortLease, TwoLeasesAreTwoPorts_AndThePortIsLeftToTheProgram) {
  const absl::StatusOr<PortLease> first = PortLease::TakeAny(0);
  const absl::StatusOr<PortLease> second = PortLease::TakeAny(0);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_NE(first->port(), second->port());
  EXPECT_TRUE(CanListen(first->port()));
  EXPECT_TRUE(first->StillFree("127.0.0.1").ok());
}

TEST(PortLease, TheNextOne_IsAnother_AlsoWhenTheFirstIsFreeAgain) {
  PortLease lease = *PortLease::TakeAny(0);
  const int first = lease.port();
  lease = *PortLease::TakeAny(first);
  EXPECT_NE(lease.port(), first);
}

TEST(PortLease, PortOfAnotherJob_IsRefusedWithItsAgent) {
  const PortLease lease = *PortLease::TakeAny(0);
  const absl::Status status = PortLease::Take(lease.port(), "127.0.0.1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(
      std::string(status.message()),
      absl::StrCat("port ", lease.port(), " is that of another job of dsrun (its agent is pid ",
                   getpid(), " of uid ", geteuid(), ")"));
}

TEST(PortLease, PortThatAProcessUses_IsRefusedWithThatProcess) {
  const Listener listener("127.0.0.1");
  const absl::Status status = PortLease::Take(listener.port(), "127.0.0.1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr(absl::StrCat("port ", listener.port(), " is in use by pid ", getpid(), " (")));
  // On another address of this machine it is free, and so may be asked for.
  EXPECT_TRUE(PortLease::Take(listener.port(), "127.0.0.2").ok());
  // An address that is not this machine's says nothing: then all of them count.
  EXPECT_FALSE(PortLease::Take(listener.port(), "192.0.2.1").ok());
}

TEST(PortLease, PortThatIsTakenMeanwhile_IsNotStillFree) {
  std::optional<Listener> listener(std::in_place, "127.0.0.1");
  const int port = listener->port();
  listener.reset();
  const absl::StatusOr<PortLease> lease = PortLease::Take(port, "127.0.0.1");
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_TRUE(lease->StillFree("127.0.0.1").ok());
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<uint16_t>(port));
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  EXPECT_FALSE(lease->StillFree("127.0.0.1").ok());
  close(fd);
}

// The kernel gives the name back, whatever became of its holder.
// Whoever closes a connection first keeps its port for a minute, from those who do not ask for
// reuse.
TEST(PortLease, PortOfAConnectionThatHasJustEnded_IsPassedOver) {
  const int32_t port = PortLease::TakeAny(0)->port();
  const int host = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;  // as programs that want their port back soon
  setsockopt(host, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, "127.0.0.1", &where.sin_addr);
  const auto* const address = reinterpret_cast<const sockaddr*>(&where);
  ASSERT_EQ(bind(host, address, sizeof(where)), 0);
  ASSERT_EQ(listen(host, 1), 0);
  const int guest = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(connect(guest, address, sizeof(where)), 0);
  const int accepted = accept(host, nullptr, nullptr);
  close(accepted);
  char byte;
  EXPECT_EQ(read(guest, &byte, 1), 0);
  close(guest);
  close(host);
  EXPECT_FALSE(CanListen(port));
  const absl::StatusOr<PortLease> lease = PortLease::TakeAny(port - 1);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_NE(lease->port(), port);
  EXPECT_TRUE(CanListen(lease->port()));
  // Who names it gets it: a program may ask for reuse.
  EXPECT_TRUE(PortLease::Take(port, "127.0.0.1").ok());
}

TEST(PortLease, OfAProcessThatIsKilled_IsFree) {
  int ready[2], hold[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(hold), 0);
  const pid_t child = fork();
  if (child == 0) {
    const absl::StatusOr<PortLease> lease = PortLease::TakeAny(0);
    const int port = lease.ok() ? lease->port() : 0;
    (void)!write(ready[1], &port, sizeof(port));
    (void)!read(hold[0], ready, 1);  // for ever
    _exit(0);
  }
  int port = 0;
  ASSERT_EQ(read(ready[0], &port, sizeof(port)), static_cast<ssize_t>(sizeof(port)));
  EXPECT_FALSE(PortLease::Take(port, "").ok());
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(PortLease::Take(port, "").ok());
  for (const int fd : {ready[0], ready[1], hold[0], hold[1]}) close(fd);
}

TEST(CandidatePorts, BeginWithTheExpectedOne_AndLeaveOutWhatTheKernelGivesAway) {
  const std::vector<int32_t> ports = CandidatePorts("32768\t60999", "29501,29510-29512");
  EXPECT_EQ(ports.front(), 29500);
  EXPECT_EQ(ports[1], 29502);
  EXPECT_THAT(ports, Not(Contains(29511)));
  EXPECT_THAT(ports, Not(Contains(AllOf(Ge(32768), Lt(61000)))));
  EXPECT_THAT(ports, Contains(61000));
  EXPECT_EQ(ports.back(), 29499);
  EXPECT_THAT(ports, Each(Ge(10000)));
}

TEST(CandidatePorts, WhereEverythingIsGivenAway_AreAllTheSame) {
  EXPECT_EQ(CandidatePorts("1024\t65535", "").size(), 55536u);
  EXPECT_EQ(CandidatePorts("", "nonsense").size(), 55536u);
}

}  // namespace
}  // namespace dsrun::agent
