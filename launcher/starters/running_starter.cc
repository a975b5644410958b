#include "launcher/starters/running_starter.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/dial.h"
#include "common/rpc/secrets.h"

namespace dsrun::launcher {
namespace {

// What to do next, where whoever was called has not said it.
std::string Advice(const absl::Status& status, const std::string& target) {
  if (!absl::IsUnavailable(status)) return "";
  return absl::StrCat("; start one there with: dsagent --listen ", target,
                      " --cluster-key-file FILE, or correct the port in the hostfile");
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
  absl::StatusOr<Connection> connection = DialAgent(target, cluster_key_, options_.connect_timeout);
  if (!connection.ok()) {
    return absl::Status(connection.status().code(),
                        absl::StrCat("node ", node.host(), ": expected a running dsagent at ",
                                     target, ", but ", std::string(connection.status().message()),
                                     Advice(connection.status(), target)));
  }
  return AgentEndpoint{.target = target,
                       .connection = std::make_shared<Connection>(*std::move(connection))};
}

}  // namespace dsrun::launcher
