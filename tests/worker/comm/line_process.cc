#include "tests/worker/comm/line_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/proc_file.h"

extern char** environ;

namespace dsrun::worker {

LineProcess::LineProcess(std::vector<std::string> words) {
  int in[2], out[2];
  EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  std::vector<char*> args;
  for (std::string& word : words) args.push_back(word.data());
  args.push_back(nullptr);
  EXPECT_EQ(posix_spawn(&pid_, args[0], &actions, nullptr, args.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  to_ = in[1];
  from_ = out[0];
}

LineProcess::~LineProcess() {
  Kill();
  close(to_);
  close(from_);
}

void LineProcess::Say(const std::string& line) {
  const std::string text = line + "\n";
  EXPECT_EQ(write(to_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

std::string LineProcess::Hear(absl::Duration timeout) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + timeout;
  while (buffer_.find('\n') == std::string::npos) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    pollfd ready{from_, POLLIN, 0};
    if (left <= absl::ZeroDuration() ||
        poll(&ready, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) <= 0) {
      return "";
    }
    char part[4096];
    const ssize_t n = read(from_, part, sizeof(part));
    if (n <= 0) return "";
    buffer_.append(part, static_cast<size_t>(n));
  }
  const size_t end = buffer_.find('\n');
  const std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  return line;
}

void LineProcess::Stop() {
  kill(pid_, SIGSTOP);
  int status = 0;
  EXPECT_EQ(waitpid(pid_, &status, WUNTRACED), pid_);
  EXPECT_TRUE(WIFSTOPPED(status));
}

void LineProcess::Continue() { kill(pid_, SIGCONT); }

void LineProcess::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  EXPECT_EQ(waitpid(pid_, nullptr, 0), pid_);
  pid_ = -1;
}

void LineProcess::ExpectEnd() {
  int status = -1;
  EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "wait status " << status;
  pid_ = -1;
}

bool LineProcess::WaitUntilBlocked() {
  const SteadyTime deadline = Clock::Real().SteadyNow() + kLinePatience;
  while (Clock::Real().SteadyNow() < deadline) {
    if (AllThreadsSleep()) return true;
    std::this_thread::yield();
  }
  return false;
}

bool LineProcess::AllThreadsSleep() const {
  const std::string tasks = absl::StrCat("/proc/", pid_, "/task");
  DIR* folder = opendir(tasks.c_str());
  if (folder == nullptr) return false;
  bool all = true;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] == '.') continue;
    const std::string stat = ReadProcFile(tasks + "/" + entry->d_name + "/stat");
    const size_t end = stat.rfind(") ");
    all = all && end != std::string::npos && stat[end + 2] == 'S';
  }
  closedir(folder);
  return all;
}

}  // namespace dsrun::worker
