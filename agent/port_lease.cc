#include "agent/port_lease.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/descriptor.h"

namespace dsrun::agent {
namespace {

constexpr int32_t kFirstChoice = 29500;  // torch's and deepspeed's own default
constexpr int32_t kLeast = 10000;        // below it the well-known services live
constexpr int32_t kMost = 65535;

struct Range {
  int32_t first = 0;
  int32_t last = -1;
  bool Contains(int32_t port) const { return first <= port && port <= last; }
};

// The abstract name that stands for a port.
sockaddr_un NameOf(int32_t port, socklen_t& size) {
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  const std::string text = absl::StrCat("dsrun-port-", port);
  memcpy(name.sun_path + 1, text.data(), text.size());  // behind a zero byte: no file
  size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  return name;
}

absl::Status NoDescriptor(int error) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no socket can be made to reserve a port with: ", strerror(error),
                   "; raise the limit of open files (ulimit -n)"));
}

std::string NameOfProcess(const std::string& pid) {
  std::string name;
  std::getline(std::ifstream(absl::StrCat("/proc/", pid, "/comm")), name);
  return name;
}

// Sockets that listen at `port`, by inode.
std::set<std::string> ListenersAt(int32_t port) {
  std::set<std::string> inodes;
  for (const char* path : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream table(path);
    std::string line;
    std::getline(table, line);  // the heading
    while (std::getline(table, line)) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
      if (words.size() < 10 || words[3] != "0A") continue;
      const size_t colon = words[1].rfind(':');
      uint32_t at = 0;
      if (colon != std::string::npos && absl::SimpleHexAtoi(words[1].substr(colon + 1), &at) &&
          at == static_cast<uint32_t>(port)) {
        inodes.insert(words[9]);
      }
    }
  }
  return inodes;
}

// "pid 4711 (python3)", or that it cannot be seen.
std::string WhoListensAt(int32_t port) {
  namespace fs = std::filesystem;
  const std::set<std::string> inodes = ListenersAt(port);
  std::error_code error;
  for (fs::directory_iterator it("/proc", error), end; !error && it != end; it.increment(error)) {
    const std::string pid = it->path().filename();
    if (inodes.empty() || pid.find_first_not_of("0123456789") != std::string::npos) continue;
    std::error_code hidden;  // of another user
    for (fs::directory_iterator fd(it->path() / "fd", hidden); !hidden && fd != end;
         fd.increment(hidden)) {
      std::error_code gone;
      const std::string target = fs::read_symlink(fd->path(), gone);
      if (!target.starts_with("socket:[") || !inodes.contains(target.substr(8, target.size() - 9)))
        continue;
      return absl::StrCat("pid ", pid, " (", NameOfProcess(pid), ")");
    }
  }
  return "a process that cannot be seen from here";
}

// The agent that holds the name of `port`; the kernel knows it, whoever asks.
std::string WhoHoldsTheName(int32_t port) {
  const Descriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  socklen_t size = 0;
  const sockaddr_un name = NameOf(port, size);
  ucred who = {};
  socklen_t bytes = sizeof(who);
  if (fd.get() < 0 || connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), size) != 0 ||
      getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0) {
    return "another job of dsrun";
  }
  return absl::StrCat("another job of dsrun (its agent is pid ", who.pid, " of uid ", who.uid, ")");
}

// 0, or why a program could not bind. Bound and let go without listening. `reuse`: for a program
// that takes a port although connections of the last minute still stand at it (SO_REUSEADDR); not
// every one does.
int TryBind(const sockaddr* address, socklen_t size, bool reuse) {
  const Descriptor fd(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return errno;
  const int on = 1, off = 0;
  if (reuse) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (address->sa_family == AF_INET6) {
    setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  }
  return bind(fd.get(), address, size) == 0 ? 0 : errno;
}

int TryBindV4(int32_t port, in_addr address, bool reuse) {
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<uint16_t>(port));
  where.sin_addr = address;
  return TryBind(reinterpret_cast<const sockaddr*>(&where), sizeof(where), reuse);
}

int TryBindV6(int32_t port, in6_addr address, bool reuse) {
  sockaddr_in6 where = {};
  where.sin6_family = AF_INET6;
  where.sin6_port = htons(static_cast<uint16_t>(port));
  where.sin6_addr = address;
  return TryBind(reinterpret_cast<const sockaddr*>(&where), sizeof(where), reuse);
}

int TryBindAny(int32_t port, bool reuse) {
  const int error = TryBindV6(port, in6addr_any, reuse);  // both families, where there are both
  const bool no_v6 = error == EAFNOSUPPORT || error == EADDRNOTAVAIL;
  return no_v6 ? TryBindV4(port, in_addr{.s_addr = htonl(INADDR_ANY)}, reuse) : error;
}

int TryBindAt(int32_t port, const std::string& address) {
  in_addr v4 = {};
  in6_addr v6 = {};
  int error = EADDRNOTAVAIL;
  if (inet_pton(AF_INET, address.c_str(), &v4) == 1) {
    error = TryBindV4(port, v4, /*reuse=*/true);
  } else if (inet_pton(AF_INET6, address.c_str(), &v6) == 1) {
    error = TryBindV6(port, v6, /*reuse=*/true);
  }
  const bool elsewhere = error == EADDRNOTAVAIL || error == EAFNOSUPPORT;
  return elsewhere ? TryBindAny(port, /*reuse=*/true) : error;
}

absl::Status WhyNotBound(int error, int32_t port) {
  switch (error) {
    case 0:
      return absl::OkStatus();
    case EADDRINUSE:
      return absl::AlreadyExistsError(
          absl::StrCat("port ", port, " is in use by ", WhoListensAt(port)));
    case EACCES:
      return absl::PermissionDeniedError(absl::StrCat("port ", port, " may not be bound by uid ",
                                                      geteuid(), ": it is a privileged one"));
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      return NoDescriptor(error);
    default:
      return absl::UnavailableError(
          absl::StrCat("port ", port, " cannot be bound: ", strerror(error)));
  }
}

// The name alone. Nothing: somebody has it.
absl::StatusOr<std::optional<int>> TakeName(int32_t port) {
  Descriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return NoDescriptor(errno);
  socklen_t size = 0;
  const sockaddr_un name = NameOf(port, size);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), size) != 0) {
    if (errno == EADDRINUSE) return std::nullopt;
    return absl::UnavailableError(
        absl::StrCat("the name of port ", port, " cannot be reserved: ", strerror(errno)));
  }
  listen(fd.get(), 1);  // who connects learns from the kernel whose it is
  return fd.Release();
}

std::optional<Range> ParseRange(std::string_view text, char between) {
  const std::vector<std::string> ends =
      absl::StrSplit(absl::string_view(text.data(), text.size()), between);
  Range range;
  if (!absl::SimpleAtoi(ends.front(), &range.first)) return std::nullopt;
  range.last = range.first;
  if (ends.size() > 1 && !absl::SimpleAtoi(ends[1], &range.last)) return std::nullopt;
  return range;
}

std::string FirstLine(const char* path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  return line;
}

}  // namespace

std::vector<int32_t> CandidatePorts(std::string_view ephemeral, std::string_view reserved) {
  std::vector<Range> avoided;
  if (const auto range = ParseRange(ephemeral, '\t')) avoided.push_back(*range);
  for (const absl::string_view part : absl::StrSplit(
           absl::string_view(reserved.data(), reserved.size()), ',', absl::SkipWhitespace())) {
    if (const auto range = ParseRange(std::string_view(part.data(), part.size()), '-')) {
      avoided.push_back(*range);
    }
  }
  std::vector<int32_t> good, last_resort;
  const auto add = [&](int32_t first, int32_t last) {
    for (int32_t port = first; port <= last; ++port) {
      const bool avoid = std::any_of(avoided.begin(), avoided.end(),
                                     [&](const Range& range) { return range.Contains(port); });
      (avoid ? last_resort : good).push_back(port);
    }
  };
  add(kFirstChoice, kMost);
  add(kLeast, kFirstChoice - 1);
  return good.empty() ? last_resort : good;
}

absl::StatusOr<PortLease> PortLease::Take(int32_t port, const std::string& address) {
  const absl::StatusOr<std::optional<int>> fd = TakeName(port);
  if (!fd.ok()) return fd.status();
  if (!fd->has_value()) {
    return absl::AlreadyExistsError(
        absl::StrCat("port ", port, " is that of ", WhoHoldsTheName(port)));
  }
  PortLease lease(port, **fd);
  if (absl::Status free = lease.StillFree(address); !free.ok()) return free;
  return lease;
}

absl::StatusOr<PortLease> PortLease::TakeAny(int32_t after) {
  std::vector<int32_t> ports =
      CandidatePorts(FirstLine("/proc/sys/net/ipv4/ip_local_port_range"),
                     FirstLine("/proc/sys/net/ipv4/ip_local_reserved_ports"));
  const auto last = std::find(ports.begin(), ports.end(), after);
  if (last != ports.end()) std::rotate(ports.begin(), last + 1, ports.end());
  for (const int32_t port : ports) {
    const absl::StatusOr<std::optional<int>> fd = TakeName(port);
    if (!fd.ok()) return fd.status();
    if (!fd->has_value()) continue;
    PortLease lease(port, **fd);
    const int error = TryBindAny(port, /*reuse=*/false);
    if (error == 0) return lease;
    if (error != EADDRINUSE && error != EACCES) return WhyNotBound(error, port);
  }
  return absl::UnavailableError(
      absl::StrCat("none of ", ports.size(), " ports from ", kLeast, " to ", kMost, " is free"));
}

PortLease::PortLease(PortLease&& other) noexcept
    : port_(std::exchange(other.port_, 0)), fd_(std::exchange(other.fd_, -1)) {}

PortLease& PortLease::operator=(PortLease&& other) noexcept {
  std::swap(port_, other.port_);
  std::swap(fd_, other.fd_);
  return *this;
}

PortLease::~PortLease() {
  if (fd_ >= 0) close(fd_);
}

absl::Status PortLease::StillFree(const std::string& address) const {
  return WhyNotBound(TryBindAt(port_, address), port_);
}

}  // namespace dsrun::agent
