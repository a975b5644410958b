#include "launcher/commands/network.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace dsrun::launcher {
namespace {

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;
};

bool ToSocketAddress(const std::string& address, int port, SocketAddress& out) {
  auto* v4 = reinterpret_cast<sockaddr_in*>(&out.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.storage);
  if (::inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    out.size = sizeof(sockaddr_in);
    return true;
  }
  if (::inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    out.size = sizeof(sockaddr_in6);
    return true;
  }
  return false;
}

// Listens for a moment. 0 or the error; `port` becomes the one that was bound.
int TryListen(const std::string& address, int& port) {
  SocketAddress where;
  if (!ToSocketAddress(address, port, where)) return EADDRNOTAVAIL;
  const int fd = ::socket(where.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const int on = 1;  // connections of an earlier job that linger do not count
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  int error = 0;
  if (::bind(fd, reinterpret_cast<sockaddr*>(&where.storage), where.size) != 0 ||
      ::listen(fd, 1) != 0) {
    error = errno;
  } else if (::getsockname(fd, reinterpret_cast<sockaddr*>(&where.storage), &where.size) == 0) {
    port = ntohs(where.storage.ss_family == AF_INET
                     ? reinterpret_cast<sockaddr_in*>(&where.storage)->sin_port
                     : reinterpret_cast<sockaddr_in6*>(&where.storage)->sin6_port);
  }
  ::close(fd);
  return error;
}

}  // namespace

absl::StatusOr<std::string> ResolveAddress(const std::string& host) {
  std::string name = host;
  if (!name.empty() && name.front() == '[' && name.back() == ']') {
    name = name.substr(1, name.size() - 2);
  }
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = ::getaddrinfo(name.c_str(), nullptr, &hints, &list);
  if (error != 0) return absl::NotFoundError(::gai_strerror(error));
  std::string best;
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    char text[INET6_ADDRSTRLEN + 32];
    if (::getnameinfo(entry->ai_addr, entry->ai_addrlen, text, sizeof(text), nullptr, 0,
                      NI_NUMERICHOST) != 0) {
      continue;
    }
    if (entry->ai_family == AF_INET) {
      best = text;
      break;
    }
    if (best.empty()) best = text;
  }
  ::freeaddrinfo(list);
  if (best.empty()) return absl::NotFoundError("it has no IPv4 or IPv6 address");
  return best;
}

bool IsPortFree(const std::string& address, int port) {
  const int error = TryListen(address, port);
  return error != EADDRINUSE && error != EACCES;
}

absl::StatusOr<int> PickFreePort(const std::string& address) {
  int port = 0;
  const int error = TryListen(address, port);
  if (error != 0) {
    return absl::UnavailableError("no free port at " + address + ": " + std::strerror(error));
  }
  return port;
}

}  // namespace dsrun::launcher
