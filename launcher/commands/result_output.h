// ResultOutput: standard output of a command whose output is its result (help, --dry-run, dsrun
// checkpoint). What is not written there is an error of the command, not something to pass over.
//
// Whoever reads there is waited for, as by any tool: a pager may take its time, and a signal ends
// the process. Threads: that of std::cout's user.

#ifndef DSRUN_LAUNCHER_COMMANDS_RESULT_OUTPUT_H_
#define DSRUN_LAUNCHER_COMMANDS_RESULT_OUTPUT_H_

#include <streambuf>
#include <vector>

#include "absl/status/status.h"

namespace dsrun::launcher {

class ResultOutput : private std::streambuf {
 public:
  // From here on std::cout writes to `fd` through this, until its destruction.
  explicit ResultOutput(int fd = 1);
  ~ResultOutput() override;
  ResultOutput(const ResultOutput&) = delete;
  ResultOutput& operator=(const ResultOutput&) = delete;

  // Writes what is left. Errors: UNAVAILABLE: some of all that was written is not there, and why.
  absl::Status Finish();

 private:
  int_type overflow(int_type byte) override;
  int sync() override;

  const int fd_;
  std::vector<char> buffer_;
  std::streambuf* const before_;
  int error_ = 0;  // of the first write that failed; nothing is written after it
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_RESULT_OUTPUT_H_
