#include "tests/support/kernel_faults.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>

#include "common/base/clock.h"

namespace dsrun {

bool RefuseCall(int number, int error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {4, filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

HeldProgram::HeldProgram(const std::string& from) {
  signal(SIGIO, SIG_IGN);  // how the kernel asks for the lease
  std::string folder = "/tmp/held-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return;
  chmod(folder.c_str(), 0755);
  path_ = folder + "/program";
  std::filesystem::copy_file(from, path_);
  fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fcntl(fd_, F_SETLEASE, F_WRLCK) != 0) LetGo();
}

HeldProgram::~HeldProgram() {
  LetGo();
  std::error_code ignored;
  if (!path_.empty()) {
    std::filesystem::remove_all(std::filesystem::path(path_).parent_path(), ignored);
  }
}

bool HeldProgram::AwaitWaiter() const {
  const SteadyTime deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
  // Who opens it to read asks for the lease to become one that lets others read.
  while (fcntl(fd_, F_GETLEASE) == F_WRLCK) {
    if (Clock::Real().SteadyNow() >= deadline) return false;
    poll(nullptr, 0, 1);
  }
  return true;
}

void HeldProgram::LetGo() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

}  // namespace dsrun
