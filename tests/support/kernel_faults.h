// Faults of the kernel that a test can have without rights: a system call that is not there, and a
// file that does not come open.

#ifndef DSRUN_TESTS_SUPPORT_KERNEL_FAULTS_H_
#define DSRUN_TESTS_SUPPORT_KERNEL_FAULTS_H_

#include <string>

namespace dsrun {

// From now on the system call `number` is refused to this thread and whatever it starts, for ever,
// with this errno: ENOSYS, as by a kernel that is too old; EPERM, as by a container's profile.
// False: it cannot be done here. For a child of the test.
bool RefuseCall(int number, int error);

// A copy of a program that cannot be opened by anybody until LetGo: exec of it waits in the kernel,
// as on a file server that does not answer (a lease of the file is what it waits for, and the
// kernel waits 45 s for that). Ignores SIGIO in this process.
class HeldProgram {
 public:
  // Holds a copy of the file at `from`.
  explicit HeldProgram(const std::string& from);
  ~HeldProgram();
  HeldProgram(const HeldProgram&) = delete;

  // False: no lease can be had here.
  bool held() const { return fd_ >= 0; }
  // Until somebody waits; false: nobody within 20 s.
  bool AwaitWaiter() const;
  void LetGo();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_SUPPORT_KERNEL_FAULTS_H_
