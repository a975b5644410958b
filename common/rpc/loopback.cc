#include "common/rpc/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace dsrun {
namespace {

// "[::1]:80" -> "::1", "127.0.0.1:80" -> "127.0.0.1".
std::string HostOf(const std::string& target) {
  if (!target.empty() && target[0] == '[') {
    const size_t bracket = target.find(']');
    return bracket == std::string::npos ? "" : target.substr(1, bracket - 1);
  }
  return target.substr(0, target.rfind(':'));
}

}  // namespace

bool IsLoopbackAddress(const std::string& address) {
  in_addr v4;
  if (inet_pton(AF_INET, address.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, address.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::Status CheckLoopbackTarget(const std::string& target) {
  if (absl::StartsWith(target, kUnixScheme) || IsLoopbackAddress(HostOf(target))) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("address ", target,
                   ": expected a numeric loopback address (127.x.x.x or [::1]) with a port; off "
                   "loopback everything is refused until TLS exists"));
}

}  // namespace dsrun
