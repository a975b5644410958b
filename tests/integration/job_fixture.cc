#include "tests/integration/job_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/rpc/secrets.h"

extern char** environ;

namespace dsrun {
namespace {

namespace fs = std::filesystem;

// Between two looks. Not a wait for something to happen: whatever happens is noticed at the next.
constexpr absl::Duration kBetweenLooks = absl::Milliseconds(5);
constexpr char kTagName[] = "DSRUN_TEST_JOB";

std::string FromRunfiles(const std::string& path) {
  const char* root = getenv("TEST_SRCDIR");
  const char* workspace = getenv("TEST_WORKSPACE");
  if (root == nullptr || workspace == nullptr) return fs::absolute(path);
  return std::string(root) + "/" + workspace + "/" + path;
}

std::string Hex(const std::string& bytes) {
  std::string text;
  for (const unsigned char byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::map<std::string, std::string> EnvironmentOf(pid_t pid) {
  std::map<std::string, std::string> variables;
  std::stringstream all(ReadWholeFile("/proc/" + std::to_string(pid) + "/environ"));
  for (std::string entry; std::getline(all, entry, '\0');) {
    const size_t equals = entry.find('=');
    if (equals != std::string::npos) variables[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  return variables;
}

// "R", "S", "Z"; empty: gone.
std::string StateOf(pid_t pid) {
  const std::string stat = ReadWholeFile("/proc/" + std::to_string(pid) + "/stat");
  const size_t end = stat.rfind(')');
  return end == std::string::npos || end + 2 >= stat.size() ? "" : stat.substr(end + 2, 1);
}

Role RoleOf(pid_t pid) {
  std::error_code error;
  const std::string exe =
      fs::read_symlink("/proc/" + std::to_string(pid) + "/exe", error).filename();
  if (exe == "dsrun") return Role::kLauncher;
  if (exe == "dsworker") return Role::kWorker;
  if (exe != "dsagent") return Role::kProgram;
  const std::string command = ReadWholeFile("/proc/" + std::to_string(pid) + "/cmdline");
  return command.find("--role") != std::string::npos ? Role::kAgent : Role::kKeeper;
}

// What follows "NAME=" in an argument of the process; empty: no such argument.
std::string ArgumentOf(pid_t pid, const std::string& name) {
  std::stringstream all(ReadWholeFile("/proc/" + std::to_string(pid) + "/cmdline"));
  for (std::string argument; std::getline(all, argument, '\0');) {
    if (argument.starts_with(name + "=")) return argument.substr(name.size() + 1);
  }
  return "";
}

int OpenForWriting(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  PCHECK(fd >= 0) << path;
  return fd;
}

}  // namespace

bool Eventually(const std::function<bool()>& condition, absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  while (!condition()) {
    if (Clock::Real().SteadyNow() > deadline) return false;
    std::this_thread::sleep_for(absl::ToChronoMilliseconds(kBetweenLooks));
  }
  return true;
}

std::string DsrunBinary() { return FromRunfiles("tests/integration/bin/dsrun"); }
std::string DsagentBinary() { return FromRunfiles("tests/integration/bin/dsagent"); }
std::string UserProgram() { return FromRunfiles("tests/integration/user_program"); }
std::string RepositoryFile(const std::string& path) { return FromRunfiles(path); }

std::string ReadWholeFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

TemporaryFolder::TemporaryFolder()
    : TemporaryFolder(getenv("TEST_TMPDIR") == nullptr ? "/tmp" : getenv("TEST_TMPDIR")) {}

TemporaryFolder::TemporaryFolder(const std::string& base) : path_(base + "/job-XXXXXX") {
  PCHECK(mkdtemp(path_.data()) != nullptr) << path_;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  fs::remove_all(path_, error);
}

// Shared with the runner's thread, which may tell the end after the Job has stopped caring.
struct Job::End {
  std::atomic<bool> ended = false;
  ProcessEnd how;
};

Job::Job(std::vector<std::string> arguments, Options options) : end_(std::make_shared<End>()) {
  if (options.folder.empty()) own_folder_.emplace();
  folder_ = options.folder.empty() ? own_folder_->path() : options.folder;
  tag_ = Hex(RandomBytes(8));
  out_path_ = folder_ + "/stdout." + tag_;
  err_path_ = folder_ + "/stderr." + tag_;
  absl::StatusOr<std::unique_ptr<PosixProcessRunner>> runner = PosixProcessRunner::Create({});
  CHECK(runner.ok()) << runner.status();
  runner_ = *std::move(runner);

  ProcessSpec spec;
  const std::string dsrun = options.dsrun_binary.empty() ? DsrunBinary() : options.dsrun_binary;
  if (options.limits.empty()) {
    spec.executable = dsrun;
    spec.argv = {"dsrun"};
  } else {
    spec.executable = "/bin/bash";
    spec.argv = {"bash", "-c",
                 "export HOME=\"$PWD\" && ulimit " + options.limits + " && exec \"$0\" \"$@\"",
                 dsrun};
  }
  spec.user = options.user;
  for (const std::string& argument :
       {std::string("--run-dir"), run_dir(), std::string("--agent-binary"),
        options.agent_binary.empty() ? DsagentBinary() : options.agent_binary}) {
    spec.argv.push_back(argument);
  }
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  for (char** entry = environ; *entry != nullptr; ++entry) spec.environment.emplace_back(*entry);
  spec.environment.push_back(std::string(kTagName) + "=" + tag_);
  for (std::string& each : options.environment) spec.environment.push_back(std::move(each));
  spec.working_dir = folder_;
  spec.stdout_fd = options.stdout_fd >= 0 ? fcntl(options.stdout_fd, F_DUPFD_CLOEXEC, 0)
                                          : OpenForWriting(out_path_);
  spec.stderr_fd = OpenForWriting(err_path_);
  const absl::StatusOr<int32_t> pid =
      runner_->Spawn(spec, [end = end_](int32_t, const ProcessEnd& how) {
        end->how = how;
        end->ended = true;
      });
  close(spec.stdout_fd);
  close(spec.stderr_fd);
  CHECK(pid.ok()) << pid.status();
  pid_ = *pid;
}

Job::~Job() {
  for (const JobProcess& process : Processes()) kill(process.pid, SIGKILL);
  runner_.reset();
}

std::string Job::Words() const {
  return "\n--- stdout\n" + out() + "--- stderr\n" + err() + "---\n";
}

void Job::Signal(int signal) const { kill(pid_, signal); }

bool Job::AwaitOutput(const std::string& text) const {
  return Eventually([&] { return out().find(text) != std::string::npos || Ended(); }) &&
         out().find(text) != std::string::npos;
}

bool Job::AwaitError(const std::string& text) const {
  return Eventually([&] { return err().find(text) != std::string::npos || Ended(); }) &&
         err().find(text) != std::string::npos;
}

bool Job::SignalOnceMore(int signal) const {
  SteadyTime last = Clock::Real().SteadyNow();
  return Eventually([&] {
    if (Ended() || err().find("stopping now") != std::string::npos) return true;
    if (Clock::Real().SteadyNow() - last > absl::Milliseconds(400)) {
      Signal(signal);
      last = Clock::Real().SteadyNow();
    }
    return false;
  });
}

bool Job::Ended() const { return end_->ended; }

std::string ContentHash(const std::string& folder) {
  const std::string command = DsrunBinary() + " checkpoint hash '" + folder + "' 2>&1";
  FILE* const pipe = popen(command.c_str(), "r");
  PCHECK(pipe != nullptr);
  std::string text;
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) text.append(buffer, got);
  const int status = pclose(pipe);
  const size_t end = text.find('\n');
  return status == 0 ? text.substr(0, end) : "no hash: " + text;
}

int Job::AwaitExit(absl::Duration limit) {
  if (!Eventually([&] { return Ended(); }, limit)) return -1;
  return end_->how.term_signal != 0 ? 128 + end_->how.term_signal : end_->how.exit_code;
}

std::vector<JobProcess> Job::Processes() const {
  std::vector<JobProcess> processes;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(), [](unsigned char c) { return isdigit(c); }))
      continue;
    const pid_t pid = std::stoi(name);
    std::map<std::string, std::string> environment = EnvironmentOf(pid);
    const auto tag = environment.find(kTagName);
    if (tag == environment.end() || tag->second != tag_) continue;
    const std::string state = StateOf(pid);
    if (state.empty() || state == "Z" || state == "X") continue;
    const std::string sockets = ArgumentOf(pid, "--socket-dir");
    if (!sockets.empty()) socket_folders_.insert(sockets);
    processes.push_back({pid, RoleOf(pid), std::move(environment)});
  }
  return processes;
}

std::vector<pid_t> Job::Find(Role role) const {
  std::vector<pid_t> pids;
  for (const JobProcess& process : Processes()) {
    if (process.role == role) pids.push_back(process.pid);
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

pid_t Job::ProgramOfRank(int rank) const {
  for (const JobProcess& process : Processes()) {
    const auto found = process.environment.find("RANK");
    if (process.role == Role::kProgram && found != process.environment.end() &&
        found->second == std::to_string(rank)) {
      return process.pid;
    }
  }
  return 0;
}

bool Job::NothingIsLeft(absl::Duration limit) const {
  const auto no_sockets = [&] {
    return std::none_of(socket_folders_.begin(), socket_folders_.end(),
                        [](const std::string& folder) { return fs::exists(folder); });
  };
  const bool none = Eventually([&] { return Processes().empty() && no_sockets(); }, limit);
  for (const std::string& folder : socket_folders_) {
    if (fs::exists(folder)) std::cerr << "left behind: " << folder << "\n";
  }
  for (const JobProcess& process : Processes()) {
    std::string command = ReadWholeFile("/proc/" + std::to_string(process.pid) + "/cmdline");
    std::replace(command.begin(), command.end(), '\0', ' ');
    std::cerr << "left behind: " << process.pid << " " << StateOf(process.pid) << " " << command
              << "\n";
  }
  return none;
}

nlohmann::json Job::ReportJson() const {
  return nlohmann::json::parse(ReadWholeFile(run_dir() + "/report.json"), nullptr,
                               /*allow_exceptions=*/false);
}

std::vector<nlohmann::json> ReadMetrics(const std::string& path) {
  std::vector<nlohmann::json> lines;
  const std::string all = ReadWholeFile(path);
  std::stringstream whole(all.substr(0, all.rfind('\n') + 1));
  for (std::string line; std::getline(whole, line);) {
    lines.push_back(nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false));
  }
  return lines;
}

}  // namespace dsrun
