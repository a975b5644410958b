#include "common/rpc/dial.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"
#include "common/rpc/greeting.h"
#include "common/rpc/secrets.h"
#include "common/rpc/sockets.h"

namespace dsrun {
namespace {

// A door that drops its oldest stranger may drop us in a flood.
constexpr int kTries = 20;
constexpr absl::Duration kBetweenTries = absl::Milliseconds(25);

absl::Status HungUp() {
  return absl::UnavailableError(
      "expected a dsagent's greeting, but the connection was closed without a word: another "
      "program "
      "is listening there, or the agent is ending or has no room; look at its log");
}

bool IsHungUp(const absl::Status& status) { return status == HungUp(); }

absl::Status SaysNothing(absl::Duration limit) {
  return absl::UnavailableError(absl::StrCat(
      "expected a dsagent's greeting within ", absl::FormatDuration(limit),
      ", got nothing: is another program listening there, or does the agent not run (stopped, a "
      "busy machine)? Look at its log, or correct the port in the hostfile"));
}

// `wanted` bytes; ends early at bytes that are no greeting, which are returned then.
absl::StatusOr<std::string> Receive(int fd, size_t wanted, bool begins, SteadyTime deadline,
                                    absl::Duration limit) {
  std::string got;
  while (got.size() < wanted) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return SaysNothing(limit);
    pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, PollMilliseconds(left)) <= 0) continue;
    char buffer[kAnswerBytes];
    const ssize_t count = recv(fd, buffer, wanted - got.size(), 0);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count <= 0) return HungUp();
    got.append(buffer, count);
    if (begins && !BeginsAsGreeting(got)) break;
  }
  got.resize(wanted, '\0');
  return got;
}

// A few bytes into a connection that is new: they fit.
absl::Status Say(int fd, const std::string& bytes) {
  const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  return sent == static_cast<ssize_t>(bytes.size()) ? absl::OkStatus() : HungUp();
}

absl::Status CheckListener(int fd, uint32_t uid, std::optional<int32_t> pid) {
  ASSIGN_OR_RETURN(const PeerCredentials there, CredentialsOf(fd));
  if (pid.has_value() && there.pid == 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        "expected the agent, pid ", *pid,
        ", to listen there, but the kernel names no process: it "
        "is in a pid namespace that cannot be seen from here; start ranks and agent in one"));
  }
  if (there.uid == uid && (!pid.has_value() || there.pid == *pid)) return absl::OkStatus();
  const std::string expected_pid = pid.has_value() ? absl::StrCat(", pid ", *pid) : "";
  return absl::PermissionDeniedError(
      absl::StrCat("expected the agent of uid ", uid, expected_pid,
                   " to listen there, but by the kernel's word it is uid ", there.uid, ", pid ",
                   there.pid, "; nothing was told to it"));
}

absl::StatusOr<Connection> DialOnce(const std::string& target, const std::string& cluster_key,
                                    SteadyTime deadline, absl::Duration limit,
                                    std::optional<uint32_t> uid) {
  ASSIGN_OR_RETURN(Descriptor fd, ConnectTo(target, deadline));
  if (uid.has_value()) {
    RETURN_IF_ERROR(CheckListener(fd.get(), *uid, std::nullopt));
  }
  CoordinatorGreeting greeting(cluster_key, AddressThere(fd.get()), RandomBytes(kNonceBytes));
  RETURN_IF_ERROR(Say(fd.get(), greeting.call()));
  ASSIGN_OR_RETURN(const std::string answer,
                   Receive(fd.get(), kAnswerBytes, /*begins=*/true, deadline, limit));
  ASSIGN_OR_RETURN(const std::string claim, greeting.TakeAnswer(answer));
  RETURN_IF_ERROR(Say(fd.get(), claim));
  ASSIGN_OR_RETURN(const std::string verdict,
                   Receive(fd.get(), kVerdictBytes, /*begins=*/false, deadline, limit));
  RETURN_IF_ERROR(greeting.TakeVerdict(verdict));
  return Connection{.target = target, .fd = std::move(fd), .ticket = greeting.ticket()};
}

}  // namespace

absl::StatusOr<Connection> DialAgent(const std::string& target, const std::string& cluster_key,
                                     absl::Duration limit, std::optional<uint32_t> uid) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  for (int attempt = 1;; ++attempt) {
    absl::StatusOr<Connection> connection = DialOnce(target, cluster_key, deadline, limit, uid);
    if (!IsHungUp(connection.status()) || attempt == kTries ||
        Clock::Real().SteadyNow() + kBetweenTries >= deadline) {
      return connection;
    }
    poll(nullptr, 0, PollMilliseconds(kBetweenTries));
  }
}

absl::StatusOr<Connection> DialHost(const std::string& path, uint32_t uid, int32_t pid,
                                    absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  const std::string target = absl::StrCat("unix:", path);
  ASSIGN_OR_RETURN(Descriptor fd, ConnectTo(target, deadline));
  RETURN_IF_ERROR(CheckListener(fd.get(), uid, pid));
  ASSIGN_OR_RETURN(const std::string welcome,
                   Receive(fd.get(), kWelcomeBytes, /*begins=*/true, deadline, limit));
  ASSIGN_OR_RETURN(std::string ticket, TakeWelcome(welcome));
  return Connection{.target = target, .fd = std::move(fd), .ticket = std::move(ticket)};
}

}  // namespace dsrun
