#include "launcher/commands/network.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace dsrun::launcher {

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

}  // namespace dsrun::launcher
