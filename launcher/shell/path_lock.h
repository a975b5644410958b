// PathLock: a folder or file that one job alone may write to, as long as this object lives. Another
// dsrun on this machine that asks for the same one is refused and told who has it.
//
// It is the kernel's lock on the file itself (flock): it leaves no file, and ends with the process,
// however that ends. What it does not see is a dsrun on another machine that shares the file system
// by network: there, locks of folders stay on their own machine.

#ifndef DSRUN_LAUNCHER_SHELL_PATH_LOCK_H_
#define DSRUN_LAUNCHER_SHELL_PATH_LOCK_H_

#include <string>

#include "absl/status/statusor.h"

namespace dsrun::launcher {

class PathLock {
 public:
  // A folder that is there, or a file, which is made if it is not. What is neither (a pipe, a
  // device) needs no lock and gets none. `what` is for messages: "save folder".
  // Errors: ALREADY_EXISTS: another job has it; those of ErrnoStatus: it cannot be opened.
  static absl::StatusOr<PathLock> Take(const std::string& path, const std::string& what);

  PathLock() = default;
  PathLock(PathLock&& other) noexcept;
  PathLock& operator=(PathLock&& other) noexcept;
  ~PathLock();

  // Of what is locked, open for reading; this object's. -1: nothing needed a lock.
  int fd() const { return fd_; }

  // Why another job would not be noticed; empty: it would be.
  const std::string& missing() const { return missing_; }

 private:
  int fd_ = -1;
  std::string missing_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_PATH_LOCK_H_
