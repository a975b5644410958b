#include "common/base/process_user.h"

#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace dsrun {

absl::StatusOr<ProcessUser> ResolveProcessUser(const std::string& name) {
  if (name.empty()) return ProcessUser{};
  std::vector<char> buffer(64 * 1024);
  passwd entry;
  passwd* found = nullptr;
  getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("run_as_user: expected a user of this node, got \"", name,
                     "\"; create the user on every node or start the job as another one"));
  }
  if (found->pw_uid == geteuid()) return ProcessUser{};
  if (geteuid() != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("run_as_user: the ranks shall run as \"", name, "\" (uid ", found->pw_uid,
                     "), but this agent runs as uid ", geteuid(),
                     " and only root can change; start the agent as root or as \"", name, "\""));
  }
  ProcessUser user{.change = true, .uid = found->pw_uid, .gid = found->pw_gid, .groups = {}};
  int count = 64;
  user.groups.resize(count);
  if (getgrouplist(name.c_str(), found->pw_gid, user.groups.data(), &count) < 0) {
    user.groups.resize(count);
    getgrouplist(name.c_str(), found->pw_gid, user.groups.data(), &count);
  }
  user.groups.resize(count);
  return user;
}

}  // namespace dsrun
