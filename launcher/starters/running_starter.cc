#include "launcher/starters/running_starter.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"
#include "common/rpc/loopback.h"
#include "common/rpc/secrets.h"

namespace dsrun::launcher {
namespace {

// 0, or the errno of a TCP connection that is closed again at once.
int TryConnect(const std::string& address, int port, absl::Duration limit) {
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), absl::StrCat(port).c_str(), &hints, &found) != 0) return EINVAL;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  int error = fd < 0 ? errno : 0;
  if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
    error = errno;
    pollfd waiting{.fd = fd, .events = POLLOUT, .revents = 0};
    if (error == EINPROGRESS) {
      socklen_t size = sizeof(error);
      if (poll(&waiting, 1, PollMilliseconds(limit)) <= 0) {
        error = ETIMEDOUT;
      } else {
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
      }
    }
  }
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return error;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunningStarter>> RunningStarter::Create(const Options& options) {
  ASSIGN_OR_RETURN(std::string key, ReadClusterKeyFile(options.cluster_key_file));
  return std::unique_ptr<RunningStarter>(new RunningStarter(options, std::move(key)));
}

RunningStarter::RunningStarter(const Options& options, std::string cluster_key)
    : options_(options), cluster_key_(std::move(cluster_key)) {}

absl::StatusOr<AgentEndpoint> RunningStarter::Start(NodeId, const proto::NodeSpec& node) {
  const bool is_v6 = node.address().find(':') != std::string::npos;
  const std::string target = is_v6 ? absl::StrCat("[", node.address(), "]:", node.agent_port())
                                   : absl::StrCat(node.address(), ":", node.agent_port());
  // Before anything is sent there, the key least of all.
  RETURN_IF_ERROR(CheckLoopbackTarget(target)) << "node " << node.host();
  const int error = TryConnect(node.address(), node.agent_port(), options_.connect_timeout);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("node ", node.host(), ": expected a running dsagent at ", target,
                     ", but a TCP connection failed: ", strerror(error), " (errno ", error,
                     "); start one there with: dsagent --listen ", target,
                     " --cluster-key-file FILE, or correct the port in the hostfile"));
  }
  return AgentEndpoint{.target = target, .cluster_key = cluster_key_};
}

}  // namespace dsrun::launcher
