// A program of the tests as a child process that speaks in lines: one on its standard input, one on
// its standard output. It is killed when this is destroyed.

#ifndef DSRUN_TESTS_WORKER_COMM_LINE_PROCESS_H_
#define DSRUN_TESTS_WORKER_COMM_LINE_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace dsrun::worker {

inline constexpr absl::Duration kLinePatience = absl::Seconds(20);

class LineProcess {
 public:
  // words[0]: the program, as a path from the root of the tests' files.
  explicit LineProcess(std::vector<std::string> words);
  ~LineProcess();
  LineProcess(const LineProcess&) = delete;

  void Say(const std::string& line);
  // The next line it says; empty when it says none in time.
  std::string Hear(absl::Duration timeout = kLinePatience);

  void Stop();
  void Continue();
  void Kill();
  // Waits until it has ended by itself, and expects exit code 0.
  void ExpectEnd();
  // Waits until every thread of it sleeps.
  bool WaitUntilBlocked();

 private:
  bool AllThreadsSleep() const;

  pid_t pid_ = -1;
  int to_ = -1;
  int from_ = -1;
  std::string buffer_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_COMM_LINE_PROCESS_H_
