#include "tests/attacks/attacker.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dsrun {
namespace {

constexpr int kPatienceMs = 20'000;
constexpr int kCannotDrop = 77;

// One more byte of `fd`; false: the end, or not in time.
bool ReadByte(int fd, char& byte) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  if (poll(&ready, 1, kPatienceMs) <= 0) {
    ADD_FAILURE() << "the attacker says nothing";
    return false;
  }
  return read(fd, &byte, 1) == 1;
}

}  // namespace

Attacker::Attacker(uid_t uid, const std::function<void(int out, int stop)>& body) {
  signal(SIGPIPE, SIG_IGN);  // telling one to stop that has ended is no error, here or there
  int out[2], stop[2];
  EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(stop, O_CLOEXEC), 0);
  child_ = fork();
  if (child_ == 0) {
    close(out[0]);
    close(stop[1]);
    if (setgroups(0, nullptr) != 0 || setresgid(uid, uid, uid) != 0 ||
        setresuid(uid, uid, uid) != 0) {
      _exit(kCannotDrop);
    }
    body(out[1], stop[0]);
    _exit(0);
  }
  EXPECT_GT(child_, 0);
  close(out[1]);
  close(stop[0]);
  out_ = out[0];
  stop_ = stop[1];
}

Attacker::~Attacker() { Finish(); }

std::string Attacker::Line() {
  std::string line;
  char byte = 0;
  while (ReadByte(out_, byte) && byte != '\n') line += byte;
  return line;
}

std::string Attacker::Finish() {
  if (child_ <= 0) return "";
  (void)!write(stop_, "", 1);  // a later child may hold this end, too: closing it says nothing
  close(stop_);
  std::string said;
  char buffer[4096];
  pollfd ready{.fd = out_, .events = POLLIN, .revents = 0};
  while (poll(&ready, 1, kPatienceMs) > 0) {
    const ssize_t count = read(out_, buffer, sizeof(buffer));
    if (count <= 0) break;
    said.append(buffer, count);
  }
  close(out_);
  kill(child_, SIGKILL);  // without effect on one that has ended
  int status = 0;
  waitpid(child_, &status, 0);
  EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == kCannotDrop)
      << "cannot become another user";
  child_ = 0;
  return said;
}

std::string AsUser(uid_t uid, const std::function<std::string()>& body) {
  Attacker attacker(uid, [&](int out, int) {
    const std::string result = body();
    (void)!write(out, result.data(), result.size());
  });
  return attacker.Finish();
}

void SayLine(int out, const std::string& line) {
  const std::string text = line + "\n";
  (void)!write(out, text.data(), text.size());
}

bool IsToStop(int stop) {
  pollfd ended{.fd = stop, .events = POLLIN, .revents = 0};
  return poll(&ended, 1, 0) > 0;
}

void AwaitStop(int stop) {
  pollfd ended{.fd = stop, .events = POLLIN, .revents = 0};
  poll(&ended, 1, -1);
}

}  // namespace dsrun
