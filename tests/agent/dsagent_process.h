// A real dsagent for tests, started as a launcher would: key and readiness through descriptors.

#ifndef DSRUN_TESTS_AGENT_DSAGENT_PROCESS_H_
#define DSRUN_TESTS_AGENT_DSAGENT_PROCESS_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/base/posix_process_runner.h"
#include "common/base/process_runner.h"

namespace dsrun::agent {

// A folder for sockets, whose paths have little room; removed at the end.
class SocketFolder {
 public:
  SocketFolder();
  ~SocketFolder();
  SocketFolder(const SocketFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/dsagent-XXXXXX";
};

class DsagentProcess {
 public:
  static constexpr char kKey[] = "a cluster key for tests only";

  explicit DsagentProcess(const std::vector<std::string>& flags = {});
  // Kills the keeper's group and the tree below this process that belongs to it.
  ~DsagentProcess();

  int port() const { return port_; }  // 0: it listens on a unix socket, or not at all
  const std::string& socket_dir() const { return socket_dir_.path(); }
  int32_t keeper_pid() const { return keeper_; }
  int32_t agent_pid() const;
  // How the keeper ended, within 20 s.
  std::optional<ProcessEnd> AwaitEnd();

 private:
  Mutex mu_;
  CondVar changed_;
  std::optional<ProcessEnd> end_ ABSL_GUARDED_BY(mu_);
  // Killed as these are, nobody is left to remove it.
  SocketFolder socket_dir_;
  int port_ = 0;
  int32_t keeper_ = 0;
  std::unique_ptr<PosixProcessRunner> runner_;
};

// The path of a file of this repository's build: "tests/agent/rank_helper".
std::string BuiltFile(const std::string& path);
// A new folder for a job's files, below the test's own.
std::string RunDir();
// What a rank runs that behaves as rank_helper.cc says of `mode`.
std::vector<std::string> Rank(const std::string& mode, const std::string& argument = "");

// Pins a process, so that its end can be awaited although it is no child of ours. One that is gone
// already has ended.
class Pinned {
 public:
  explicit Pinned(int32_t pid);
  ~Pinned();
  Pinned(const Pinned&) = delete;
  bool Alive() const;
  // False if it still lives after `limit`.
  bool AwaitEnd(absl::Duration limit = absl::Seconds(20)) const;

 private:
  int fd_ = -1;
};

}  // namespace dsrun::agent

#endif  // DSRUN_TESTS_AGENT_DSAGENT_PROCESS_H_
