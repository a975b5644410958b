#include "common/rpc/dial.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"
#include "common/rpc/greeting.h"
#include "common/rpc/loopback.h"
#include "common/rpc/secrets.h"
#include "common/rpc/sockets.h"

namespace dsrun {
namespace {

// In a flood a door may drop us with the strangers (door.h).
constexpr int kTries = 20;
constexpr absl::Duration kBetweenTries = absl::Milliseconds(25);

absl::Status SaysNothing(absl::Duration limit) {
  return absl::UnavailableError(absl::StrCat(
      "expected a dsagent's greeting within ", absl::FormatDuration(limit),
      ", got nothing: is another program listening there, or does the agent not run (stopped, a "
      "busy machine)? Look at its log, or correct the port in the hostfile"));
}

// One connection and what is said on it.
class Call {
 public:
  Call(Descriptor fd, SteadyTime deadline, absl::Duration limit)
      : fd_(std::move(fd)), deadline_(deadline), limit_(limit) {}

  int fd() const { return fd_.get(); }
  Descriptor TakeFd() { return std::move(fd_); }
  // The other side closed the connection before it had said what was expected.
  bool hung_up() const { return hung_up_; }

  // A few bytes into a connection that is new: they fit.
  absl::Status Say(const std::string& bytes) {
    const ssize_t sent = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    return sent == static_cast<ssize_t>(bytes.size()) ? absl::OkStatus() : HungUp();
  }
  // `wanted` bytes. `begins`: of the first ones of a connection; ends early at bytes that are no
  // greeting, which are returned then.
  absl::StatusOr<std::string> Receive(size_t wanted, bool begins);

 private:
  absl::Status HungUp() {
    hung_up_ = true;
    return absl::UnavailableError(
        "expected a dsagent's greeting, but the connection was closed without a word: another "
        "program is listening there, or the agent is ending or has no room; look at its log");
  }

  Descriptor fd_;
  const SteadyTime deadline_;
  const absl::Duration limit_;
  bool hung_up_ = false;
};

absl::StatusOr<std::string> Call::Receive(size_t wanted, bool begins) {
  std::string got;
  while (got.size() < wanted) {
    const absl::Duration left = deadline_ - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return SaysNothing(limit_);
    pollfd waiting{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, PollMilliseconds(left)) <= 0) continue;
    char buffer[kAnswerBytes];
    const ssize_t count = recv(fd_.get(), buffer, wanted - got.size(), 0);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count <= 0) return HungUp();
    got.append(buffer, count);
    if (begins && !BeginsAsGreeting(got)) break;
  }
  got.resize(wanted, '\0');
  return got;
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

// The ticket.
absl::StatusOr<std::string> Greet(Call& call, const std::string& cluster_key) {
  CoordinatorGreeting greeting(cluster_key, AddressThere(call.fd()), RandomBytes(kNonceBytes));
  RETURN_IF_ERROR(call.Say(greeting.call()));
  ASSIGN_OR_RETURN(const std::string answer, call.Receive(kAnswerBytes, /*begins=*/true));
  ASSIGN_OR_RETURN(const std::string claim, greeting.TakeAnswer(answer));
  RETURN_IF_ERROR(call.Say(claim));
  ASSIGN_OR_RETURN(const std::string verdict, call.Receive(kVerdictBytes, /*begins=*/false));
  RETURN_IF_ERROR(greeting.TakeVerdict(verdict));
  return greeting.ticket();
}

}  // namespace

absl::StatusOr<Connection> DialAgent(const std::string& target, const std::string& cluster_key,
                                     absl::Duration limit, std::optional<uint32_t> uid) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  for (int attempt = 1;; ++attempt) {
    ASSIGN_OR_RETURN(Descriptor fd, ConnectTo(target, deadline));
    if (uid.has_value()) {
      RETURN_IF_ERROR(CheckListener(fd.get(), *uid, std::nullopt));
    }
    Call call(std::move(fd), deadline, limit);
    absl::StatusOr<std::string> ticket = Greet(call, cluster_key);
    if (ticket.ok()) {
      return Connection{.target = target, .fd = call.TakeFd(), .ticket = *std::move(ticket)};
    }
    if (!call.hung_up() || attempt == kTries ||
        Clock::Real().SteadyNow() + kBetweenTries >= deadline) {
      return ticket.status();
    }
    poll(nullptr, 0, PollMilliseconds(kBetweenTries));
  }
}

absl::StatusOr<Connection> DialHost(const std::string& path, uint32_t uid, int32_t pid,
                                    absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  const std::string target = absl::StrCat(kUnixScheme, path);
  ASSIGN_OR_RETURN(Descriptor fd, ConnectTo(target, deadline));
  RETURN_IF_ERROR(CheckListener(fd.get(), uid, pid));
  Call call(std::move(fd), deadline, limit);
  ASSIGN_OR_RETURN(const std::string welcome, call.Receive(kWelcomeBytes, /*begins=*/true));
  ASSIGN_OR_RETURN(std::string ticket, TakeWelcome(welcome));
  return Connection{.target = target, .fd = call.TakeFd(), .ticket = std::move(ticket)};
}

}  // namespace dsrun
