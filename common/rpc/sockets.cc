#include "common/rpc/sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"
#include "common/rpc/loopback.h"

namespace dsrun {
namespace {

// So long that a flood does not fill it between two looks: whoever comes then waits for a second.
constexpr int kBacklog = SOMAXCONN;
constexpr mode_t kForOneUser = 0600;

// Room for every kind, and how much of it is used.
struct Address {
  union {
    sockaddr any;
    sockaddr_in v4;
    sockaddr_in6 v6;
    sockaddr_un path;
  };
  socklen_t size = 0;
  Address() { memset(&path, 0, sizeof(path)); }
  int family() const { return any.sa_family; }
};

absl::Status NoAddress(const std::string& target) {
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", target,
                   "\": expected 127.0.0.1:PORT, [::1]:PORT or unix:PATH, the path at most ",
                   sizeof(sockaddr_un::sun_path) - 1, " bytes"));
}

bool ParsePort(std::string_view text, in_port_t* port) {
  uint16_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  *port = htons(number);
  return error == std::errc() && stop == end;
}

absl::StatusOr<Address> Parse(const std::string& target) {
  RETURN_IF_ERROR(CheckLoopbackTarget(target));
  Address address;
  if (absl::StartsWith(target, kUnixScheme)) {
    const std::string path = target.substr(kUnixScheme.size());
    if (path.empty() || path.size() >= sizeof(address.path.sun_path) ||
        path.find('\0') != std::string::npos) {
      return NoAddress(target);
    }
    address.path.sun_family = AF_UNIX;
    memcpy(address.path.sun_path, path.data(), path.size());
    address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
    return address;
  }
  const size_t colon = target.rfind(':');
  if (colon == std::string::npos) return NoAddress(target);
  std::string host = target.substr(0, colon);
  in_port_t port = 0;
  if (!ParsePort(std::string_view(target).substr(colon + 1), &port)) return NoAddress(target);
  if (inet_pton(AF_INET, host.c_str(), &address.v4.sin_addr) == 1) {
    address.v4.sin_family = AF_INET;
    address.v4.sin_port = port;
    address.size = sizeof(address.v4);
    return address;
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (inet_pton(AF_INET6, host.c_str(), &address.v6.sin6_addr) != 1) return NoAddress(target);
  address.v6.sin6_family = AF_INET6;
  address.v6.sin6_port = port;
  address.size = sizeof(address.v6);
  return address;
}

std::string InWords(const Address& address) {
  char text[INET6_ADDRSTRLEN] = "";
  switch (address.family()) {
    case AF_INET:
      inet_ntop(AF_INET, &address.v4.sin_addr, text, sizeof(text));
      return absl::StrCat(text, ":", ntohs(address.v4.sin_port));
    case AF_INET6:
      inet_ntop(AF_INET6, &address.v6.sin6_addr, text, sizeof(text));
      return absl::StrCat("[", text, "]:", ntohs(address.v6.sin6_port));
    case AF_UNIX:
      return absl::StrCat(
          kUnixScheme, std::string(address.path.sun_path,
                                   strnlen(address.path.sun_path, sizeof(address.path.sun_path))));
    default:
      return "";
  }
}

Address Ask(int (*question)(int, sockaddr*, socklen_t*), int fd) {
  Address address;
  address.size = sizeof(address.path);
  if (question(fd, &address.any, &address.size) != 0) address.any.sa_family = AF_UNSPEC;
  return address;
}

absl::StatusOr<Descriptor> MakeSocket(int family) {
  Descriptor fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() >= 0) return fd;
  const int error = errno;
  const std::string text =
      absl::StrCat("cannot make a socket: ", strerror(error), BecauseOfLimit(error));
  return error == EAFNOSUPPORT ? absl::UnavailableError(text) : absl::ResourceExhaustedError(text);
}

absl::Status CannotListen(const std::string& target, int error) {
  const bool is_path = absl::StartsWith(target, kUnixScheme);
  const char* const advice =
      error == EADDRINUSE && is_path
          ? "another process is listening there, or one that was killed has left the file: look, "
            "and remove it"
      : error == EADDRINUSE || error == EADDRNOTAVAIL
          ? "the port is in use or the address is not one of this machine; try port 0"
          : "look at the address and its permissions";
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", target, ": ", strerror(error), "; ", advice));
}

// Between bind and listen: nobody can have connected.
bool GiveTo(const Address& address, std::optional<uint32_t> owner) {
  const char* const path = address.path.sun_path;
  if (chmod(path, kForOneUser) != 0) return false;
  return !owner.has_value() || *owner == geteuid() ||
         lchown(path, *owner, static_cast<gid_t>(-1)) == 0;
}

// 0, or the errno of a connection that did not come about.
int AwaitConnected(int fd, SteadyTime deadline) {
  while (true) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return ETIMEDOUT;
    pollfd waiting{.fd = fd, .events = POLLOUT, .revents = 0};
    if (poll(&waiting, 1, PollMilliseconds(left)) <= 0) continue;
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
  }
}

// Of a unix socket whose queue is full: there is nothing to wait on but time.
constexpr absl::Duration kBetweenTries = absl::Milliseconds(10);

int Connect(int fd, const Address& address, SteadyTime deadline) {
  while (true) {
    if (connect(fd, &address.any, address.size) == 0) return 0;
    const int error = errno;
    if (error == EINPROGRESS || error == EINTR) return AwaitConnected(fd, deadline);
    if (error != EAGAIN || Clock::Real().SteadyNow() >= deadline) return error;
    poll(nullptr, 0, PollMilliseconds(kBetweenTries));
  }
}

}  // namespace

absl::StatusOr<ListeningSocket> ListenOn(const std::string& target, std::optional<uint32_t> owner) {
  ASSIGN_OR_RETURN(const Address address, Parse(target));
  ASSIGN_OR_RETURN(Descriptor fd, MakeSocket(address.family()));
  const int one = 1;
  // What is left of connections of an earlier process does not hold the port; a living one does.
  if (address.family() != AF_UNIX) {
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  }
  if (bind(fd.get(), &address.any, address.size) != 0) return CannotListen(target, errno);
  if (address.family() == AF_UNIX && !GiveTo(address, owner)) {
    const int error = errno;
    unlink(address.path.sun_path);
    return CannotListen(target, error);
  }
  if (listen(fd.get(), kBacklog) != 0) return CannotListen(target, errno);
  const Address bound = Ask(&getsockname, fd.get());
  ListeningSocket socket{.fd = std::move(fd), .port = 0, .address = InWords(bound)};
  if (bound.family() == AF_INET) socket.port = ntohs(bound.v4.sin_port);
  if (bound.family() == AF_INET6) socket.port = ntohs(bound.v6.sin6_port);
  return socket;
}

absl::StatusOr<Descriptor> ConnectTo(const std::string& target, SteadyTime deadline) {
  ASSIGN_OR_RETURN(const Address address, Parse(target));
  ASSIGN_OR_RETURN(Descriptor fd, MakeSocket(address.family()));
  const int error = Connect(fd.get(), address, deadline);
  if (error == 0) {
    SetNoDelay(fd.get());
    return fd;
  }
  return absl::UnavailableError(
      absl::StrCat("a connection failed: ", strerror(error), " (errno ", error, ")"));
}

std::string AddressHere(int fd) { return InWords(Ask(&getsockname, fd)); }

std::string AddressThere(int fd) { return InWords(Ask(&getpeername, fd)); }

bool IsPeerOnLoopback(int fd) {
  const Address peer = Ask(&getpeername, fd);
  switch (peer.family()) {
    case AF_UNIX:
      return true;
    case AF_INET:
      return (ntohl(peer.v4.sin_addr.s_addr) >> 24) == 127;
    case AF_INET6:
      return IN6_IS_ADDR_LOOPBACK(&peer.v6.sin6_addr);
    default:
      return false;
  }
}

absl::StatusOr<PeerCredentials> CredentialsOf(int fd) {
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return absl::UnavailableError(
        absl::StrCat("the kernel does not say who is there: ", strerror(errno)));
  }
  return PeerCredentials{.pid = credentials.pid, .uid = credentials.uid};
}

void SetNoDelay(int fd) {
  const int one = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

}  // namespace dsrun
