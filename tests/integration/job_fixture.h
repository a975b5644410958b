// Real jobs for tests: the built programs, real processes, one temporary folder a job.
//
//   Job job({"--num_gpus=2", UserProgram(), "wait"});
//   ASSERT_TRUE(job.AwaitOutput("rank 1 waits"));
//   kill(job.Find(Role::kAgent).at(0), SIGKILL);
//   EXPECT_EQ(job.AwaitExit(), 137);
//   EXPECT_TRUE(job.NothingIsLeft());
//
// Every process of a job is found by a tag in its environment, which all of them inherit, whoever
// their parent is now. Nothing sleeps: waiting looks again and again until a deadline, which is
// generous because CI machines are busy.

#ifndef DSRUN_TESTS_INTEGRATION_JOB_FIXTURE_H_
#define DSRUN_TESTS_INTEGRATION_JOB_FIXTURE_H_

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/posix_process_runner.h"

namespace dsrun {

inline constexpr absl::Duration kPatience = absl::Seconds(40);

// True as soon as `condition` holds; false when it never did within `limit`.
bool Eventually(const std::function<bool()>& condition, absl::Duration limit = kPatience);

// Paths of the built programs.
std::string DsrunBinary();
std::string DsagentBinary();
std::string UserProgram();
// A file of this repository.
std::string RepositoryFile(const std::string& path);

std::string ReadWholeFile(const std::string& path);

// Of one test; removed at its end.
class TemporaryFolder {
 public:
  TemporaryFolder();  // in Bazel's own folder, which may lie in one that only its owner may enter
  explicit TemporaryFolder(const std::string& base);
  ~TemporaryFolder();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

enum class Role { kLauncher, kKeeper, kAgent, kWorker, kProgram };

struct JobProcess {
  pid_t pid = 0;
  Role role = Role::kProgram;
  std::map<std::string, std::string> environment;
};

// One dsrun. Its destructor kills whatever is left of the job.
class Job {
 public:
  struct Options {
    std::vector<std::string> environment = {};  // "NAME=value", added to the test's own
    std::string folder = {};                    // working directory; empty: a temporary one
    std::string agent_binary = {};              // empty: the built one, where it was built
    int stdout_fd = -1;                         // instead of a file: then out() says nothing
    std::string dsrun_binary = {};              // the same
    std::string limits = {};                    // flags of bash's ulimit, dsrun's own: "-u 20"
    ProcessUser user = {};                      // whom dsrun runs as
  };

  explicit Job(std::vector<std::string> arguments) : Job(std::move(arguments), Options()) {}
  Job(std::vector<std::string> arguments, Options options);
  ~Job();

  pid_t pid() const { return pid_; }
  const std::string& folder() const { return folder_; }
  std::string run_dir() const { return folder_ + "/run"; }
  std::string out() const { return ReadWholeFile(out_path_); }
  std::string err() const { return ReadWholeFile(err_path_); }
  // For failure messages.
  std::string Words() const;

  void Signal(int signal) const;
  // Asks once more, until the launcher says that it stops now, or has ended: what comes within 0.3
  // s of the signal before counts as the same request (docs/failure_model.md).
  bool SignalOnceMore(int signal) const;
  bool AwaitOutput(const std::string& text) const;
  bool AwaitError(const std::string& text) const;
  // As a shell says it: 128 + signal; -1: it did not end in time.
  int AwaitExit(absl::Duration limit = kPatience);
  bool Ended() const;

  // Living processes of this job (zombies are not).
  std::vector<JobProcess> Processes() const;
  std::vector<pid_t> Find(Role role) const;
  // The worker or program of a rank, as RANK or DSRUN's own variables say; 0: none.
  pid_t ProgramOfRank(int rank) const;

  // After the end: no process, and no socket folder of an agent that was ever seen here (a
  // listening socket cannot outlive its processes). Waits for `limit`.
  bool NothingIsLeft(absl::Duration limit = absl::Seconds(5)) const;

  nlohmann::json ReportJson() const;

 private:
  std::optional<TemporaryFolder> own_folder_;
  std::string folder_;
  std::string tag_;
  std::string out_path_;
  std::string err_path_;
  pid_t pid_ = 0;
  mutable std::set<std::string> socket_folders_;  // of the agents seen by Processes
  struct End;
  std::shared_ptr<End> end_;
  std::unique_ptr<PosixProcessRunner> runner_;
};

// What `dsrun checkpoint hash FOLDER` prints first; "no hash: ..." when it fails.
std::string ContentHash(const std::string& folder);

// Lines of a metrics file that are whole.
std::vector<nlohmann::json> ReadMetrics(const std::string& path);

}  // namespace dsrun

#endif  // DSRUN_TESTS_INTEGRATION_JOB_FIXTURE_H_
