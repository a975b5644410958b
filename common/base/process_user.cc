#include "common/base/process_user.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/thread.h"

namespace dsrun {
namespace {

// These two calls never say that they failed; asking for the impossible id -1 tells what is set.
bool SetFileId(long call, uint32_t id) {
  syscall(call, id);
  return static_cast<uint32_t>(syscall(call, -1)) == id;
}

absl::Status CheckAccess(const ProcessUser& user, const std::string& path, int rights,
                         const char* verb) {
  if (!user.change) return absl::OkStatus();
  int error = 0;
  // The rights of one thread, which ends here: raw calls, because the C library's versions would
  // change all threads. A file system uid other than root's takes root's power over files away.
  absl::StatusOr<std::thread> asker = StartThread("a look at files", [&] {
    const bool became = syscall(SYS_setgroups, user.groups.size(), user.groups.data()) == 0 &&
                        SetFileId(SYS_setfsgid, user.gid) && SetFileId(SYS_setfsuid, user.uid);
    if (!became) {
      error = EPERM;
    } else if (syscall(SYS_faccessat2, AT_FDCWD, path.c_str(), rights, AT_EACCESS) != 0) {
      error = errno;
    }
  });
  if (!asker.ok()) return asker.status();
  asker->join();
  if (error == 0) return absl::OkStatus();
  const std::string text =
      absl::StrCat("uid ", user.uid, " may not ", verb, " ", path, ": ", strerror(error));
  return error == ENOENT ? absl::NotFoundError(text) : absl::PermissionDeniedError(text);
}

// Digits and nothing else; (uid_t)-1 is no user.
std::optional<uid_t> UserId(const std::string& text) {
  uid_t id = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, id);
  if (error != std::errc() || stop != end || id == static_cast<uid_t>(-1)) return std::nullopt;
  return id;
}

// What getpwnam(3) says of a look-up that went wrong; of one that found nothing, nothing.
std::string LookupError(int error) {
  switch (error) {
    case 0:
    case ENOENT:
    case ESRCH:
    case EBADF:
    case EPERM:
      return "";
    default:
      return absl::StrCat(" (the look-up failed: ", strerror(error), ")");
  }
}

}  // namespace

absl::StatusOr<ProcessUser> ResolveProcessUser(const std::string& name) {
  if (name.empty()) return ProcessUser{};
  std::vector<char> buffer(64 * 1024);
  passwd entry;
  passwd* found = nullptr;
  int error = getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  const std::optional<uid_t> id = found == nullptr ? UserId(name) : std::nullopt;
  if (id == geteuid()) return ProcessUser{};
  if (id) error = getpwuid_r(*id, &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr && id) {
    return absl::FailedPreconditionError(
        absl::StrCat("run_as_user: the ranks shall run as uid ", *id,
                     ", for which this node has no passwd entry", LookupError(error),
                     ", so the groups of that user are not known here; add an entry, or "
                     "start the agent as that uid, which needs none"));
  }
  if (found == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "run_as_user: expected a user of this node, got \"", name, "\"", LookupError(error),
        "; create the user on every node or start the job as another one"));
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
  const std::string login = found->pw_name;
  if (getgrouplist(login.c_str(), found->pw_gid, user.groups.data(), &count) < 0) {
    user.groups.resize(count);
    getgrouplist(login.c_str(), found->pw_gid, user.groups.data(), &count);
  }
  user.groups.resize(count);
  return user;
}

absl::Status CheckMayWrite(const ProcessUser& user, const std::string& folder) {
  return CheckAccess(user, folder, W_OK | X_OK, "write to");
}

absl::Status CheckMayExecute(const ProcessUser& user, const std::string& path) {
  return CheckAccess(user, path, X_OK, "execute");
}

}  // namespace dsrun
