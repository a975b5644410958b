// dsagent: runs and watches the ranks of one node. What is started is the keeper (keeper.h); the
// agent proper is its child, the same program with --role=agent.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "agent/agent_process.h"
#include "agent/dsagent_flags.h"
#include "agent/exit_codes.h"
#include "agent/keeper.h"
#include "agent/stop_signals.h"
#include "common/base/escaped.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/process_tree.h"
#include "common/base/stand_apart.h"
#include "common/base/status_macros.h"
#include "common/rpc/loopback.h"
#include "common/rpc/secrets.h"

namespace dsrun::agent {
namespace {

// What the agent proper needs at least, without ranks.
constexpr int kOwnThreads = 16;
constexpr int kOwnDescriptors = 80;  // with as many strangers at its doors as they take

int Fail(int code, const absl::Status& status) {
  fprintf(stderr, "dsagent: %s\n", Escaped(std::string(status.message()), "\n\t").c_str());
  return code;
}

absl::StatusOr<std::string> OwnBinary() {
  std::error_code error;
  const std::filesystem::path binary = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) return binary.string();
  return absl::UnavailableError(
      absl::StrCat("cannot read /proc/self/exe, which names this program: ", error.message()));
}

// A number that is no open descriptor here would become another file of this process.
absl::Status CheckDescriptor(const std::string& flag, int fd) {
  if (fd < 0 || fcntl(fd, F_GETFD) >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, ": expected a descriptor that is open at the start, got ", fd,
                   ", which is not; open it where dsagent is started (", fd, "<FILE in a shell)"));
}

absl::Status CheckDescriptors(const DsagentFlags& flags) {
  RETURN_IF_ERROR(CheckDescriptor("--cluster-key-fd", flags.cluster_key_fd));
  return CheckDescriptor("--ready-fd", flags.ready_fd);
}

// What is in it will be removed: so nothing may be, and nobody else may look in. It is this
// keeper's from here on: the kernel's lock on it ends with the process.
absl::Status TakeSocketFolder(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--socket-dir ", path, ": another dsagent is using it; give each one of its own"));
  }
  struct stat info;
  std::error_code error;
  if (lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid() &&
      (info.st_mode & 0777) == 0700 && std::filesystem::is_empty(path, error) && !error) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--socket-dir ", path,
                   ": expected an empty folder of this user with mode 0700, for it is removed at "
                   "the end; give one that mktemp -d made, or leave the flag out"));
}

// Mistakes are found here, before there is a child that could only die of them.
absl::Status CheckFlags(const DsagentFlags& flags) {
  if (flags.cluster_key_file.empty() == (flags.cluster_key_fd < 0)) {
    return absl::InvalidArgumentError(
        "expected either --cluster-key-file or --cluster-key-fd; see dsagent --help");
  }
  if (!flags.cluster_key_file.empty()) {
    if (absl::Status status = ReadClusterKeyFile(flags.cluster_key_file).status(); !status.ok()) {
      return status;
    }
  }
  if (!flags.socket_dir.empty()) {
    if (absl::Status status = TakeSocketFolder(flags.socket_dir); !status.ok()) return status;
  }
  return CheckLoopbackTarget(flags.listen);
}

int KeeperMain(const DsagentFlags& flags) {
  if (absl::Status status = CheckFlags(flags); !status.ok()) return Fail(kExitUsage, status);
  KeeperOptions options;
  const absl::StatusOr<std::string> own_binary = OwnBinary();
  if (!own_binary.ok()) return Fail(kExitCannotStart, own_binary.status());
  options.agent_binary = *own_binary;
  options.agent_argv = {"dsagent", "--listen", flags.listen};
  const auto add = [&](const std::string& name, const std::string& value) {
    if (!value.empty()) options.agent_argv.push_back(absl::StrCat(name, "=", value));
  };
  const auto pass = [&](const std::string& name, int fd) {
    if (fd < 0) return;
    const int number = kFirstPassedFd + static_cast<int>(options.fds.size());
    options.fds.push_back({fd, number});
    options.agent_argv.push_back(absl::StrCat(name, "=", number));
  };
  options.socket_dir = flags.socket_dir;
  if (flags.one_job) options.starter_pid = StarterPid();
  add("--cluster-key-file", flags.cluster_key_file);
  add("--run-dir", flags.run_dir);
  add("--worker-binary", flags.worker_binary);
  if (flags.one_job) {
    options.agent_argv.push_back("--one-job");
    add("--first-job-within", absl::FormatDuration(flags.first_job_within));
  }
  pass("--cluster-key-fd", flags.cluster_key_fd);
  pass("--ready-fd", flags.ready_fd);
  return RunKeeper(options);
}

int AgentMain(const DsagentFlags& flags) {
  if (const absl::Status room =
          CheckLimits({.threads = kOwnThreads, .descriptors = kOwnDescriptors, .what = "an agent"});
      !room.ok()) {
    return Fail(kExitLimit, room);
  }
  const absl::StatusOr<std::string> key = flags.cluster_key_fd >= 0
                                              ? ReadClusterKeyFd(flags.cluster_key_fd)
                                              : ReadClusterKeyFile(flags.cluster_key_file);
  if (!key.ok()) return Fail(kExitUsage, key.status());
  AgentProcessOptions options;
  options.listen = flags.listen;
  options.cluster_key = *key;
  options.socket_dir = flags.socket_dir;
  options.worker_binary = flags.worker_binary;
  if (options.worker_binary.empty()) {
    const absl::StatusOr<std::string> own_binary = OwnBinary();
    if (!own_binary.ok()) return Fail(kExitCannotStart, own_binary.status());
    options.worker_binary =
        (std::filesystem::path(*own_binary).parent_path() / "dsworker").string();
  }
  options.run_dir = flags.run_dir;
  options.ready_fd = flags.ready_fd;
  options.one_job = flags.one_job;
  options.first_job_within = flags.first_job_within;
  options.beat_fd = kBeatFd;
  options.life_fd = kLifeFd;
  // No core and no debugger of others: this process holds the cluster key. Not an rlimit, which the
  // ranks would inherit.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  return RunAgentProcess(options);
}

int Main(int argc, char** argv) {
  const absl::StatusOr<DsagentFlags> flags =
      ParseDsagentFlags(std::vector<std::string>(argv + 1, argv + argc));
  if (!flags.ok()) return Fail(kExitUsage, flags.status());
  if (flags->help) {
    fputs(kDsagentUsage, stdout);
    return kExitOk;
  }
  // Before anything is opened here, which could get their numbers.
  if (absl::Status open = CheckDescriptors(*flags); !open.ok()) return Fail(kExitUsage, open);
  if (absl::Status proc = CheckProcIsMounted(); !proc.ok()) return Fail(kExitCannotStart, proc);
  if (absl::Status kernel = CheckKernel(); !kernel.ok()) return Fail(kExitCannotStart, kernel);
  const bool agent = flags->role == "agent";
  InitLogging("dsagent", absl::StrCat(agent ? "agent " : "keeper ", getpid()));
  return agent ? AgentMain(*flags) : KeeperMain(*flags);
}

}  // namespace
}  // namespace dsrun::agent

int main(int argc, char** argv) {
  dsrun::StandApart();
  dsrun::agent::BlockStopSignals();
  dsrun::PrepareForLimits("dsagent");
  return dsrun::agent::Main(argc, argv);
}
