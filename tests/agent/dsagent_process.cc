#include "tests/agent/dsagent_process.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/process_tree.h"

namespace dsrun::agent {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

std::string ReadLine(int fd) {
  std::string line;
  char c = 0;
  pollfd ready = {fd, POLLIN, 0};
  while (poll(&ready, 1, 20'000) > 0 && read(fd, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

}  // namespace

std::string BuiltFile(const std::string& path) {
  char* here = realpath(".", nullptr);
  const std::string file = absl::StrCat(here, "/", path);
  free(here);
  return file;
}

std::string RunDir() {
  std::string path = ::testing::TempDir() + "/runXXXXXX";
  EXPECT_NE(mkdtemp(path.data()), nullptr);
  return path;
}

std::vector<std::string> Rank(const std::string& mode, const std::string& argument) {
  std::vector<std::string> argv = {BuiltFile("tests/agent/rank_helper"), mode};
  if (!argument.empty()) argv.push_back(argument);
  return argv;
}

SocketFolder::SocketFolder() { PCHECK(mkdtemp(path_.data()) != nullptr) << path_; }

SocketFolder::~SocketFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

DsagentProcess::DsagentProcess(const std::vector<std::string>& flags) {
  runner_ = *PosixProcessRunner::Create({});
  const int key_fd = memfd_create("key", MFD_CLOEXEC);
  EXPECT_EQ(write(key_fd, kKey, strlen(kKey)), static_cast<ssize_t>(strlen(kKey)));
  lseek(key_fd, 0, SEEK_SET);
  int ready[2];
  EXPECT_EQ(pipe(ready), 0);
  ProcessSpec spec;
  spec.executable = BuiltFile("agent/dsagent");
  spec.argv = {"dsagent", "--cluster-key-fd=3", "--ready-fd=4", "--socket-dir=" + socket_dir()};
  spec.argv.insert(spec.argv.end(), flags.begin(), flags.end());
  spec.environment = {"GLOG_logtostderr=1", "PATH=/usr/bin:/bin"};
  spec.fds = {{key_fd, 3}, {ready[1], 4}};
  spec.stdout_fd = spec.stderr_fd = STDERR_FILENO;
  const absl::StatusOr<int32_t> pid = runner_->Spawn(spec, [this](int32_t, const ProcessEnd& end) {
    MutexLock lock(mu_);
    end_ = end;
    changed_.NotifyAll();
  });
  EXPECT_TRUE(pid.ok()) << pid.status();
  keeper_ = pid.value_or(0);
  close(ready[1]);
  close(key_fd);
  port_ = atoi(ReadLine(ready[0]).c_str());
  close(ready[0]);
}

DsagentProcess::~DsagentProcess() {
  KillDescendants(keeper_, nullptr, absl::Seconds(5));
  runner_.reset();
}

int32_t DsagentProcess::agent_pid() const {
  for (const ProcessInfo& info : DescendantsOf(keeper_)) {
    if (info.parent == keeper_) return info.pid;
  }
  return 0;
}

std::optional<ProcessEnd> DsagentProcess::AwaitEnd() {
  const absl::Duration deadline = Clock::Real().SteadyNow() + kPatience;
  MutexLock lock(mu_);
  while (!end_.has_value()) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return std::nullopt;
    changed_.WaitFor(mu_, left);
  }
  return end_;
}

Pinned::Pinned(int32_t pid) : fd_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {
  EXPECT_TRUE(fd_ >= 0 || errno == ESRCH) << strerror(errno);
}

Pinned::~Pinned() {
  if (fd_ >= 0) close(fd_);
}

bool Pinned::Alive() const {
  if (fd_ < 0) return false;
  pollfd fd = {fd_, POLLIN, 0};
  return poll(&fd, 1, 0) == 0;
}

bool Pinned::AwaitEnd(absl::Duration limit) const {
  if (fd_ < 0) return true;
  pollfd fd = {fd_, POLLIN, 0};
  return poll(&fd, 1, static_cast<int>(absl::ToInt64Milliseconds(limit))) > 0;
}

}  // namespace dsrun::agent
