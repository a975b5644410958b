// LogFile: one file that is appended to by a thread of its own, so that nobody else ever waits for
// its disk: open(2), mkdir(2), write(2) and close(2) on a file server that does not answer come
// back whenever it answers, or never.
//
// What is appended waits in memory until the disk has taken it. HasRoom says when that is more than
// kRoomBytes; Append takes it all the same, so the caller decides what has to wait and what cannot.
// A file that cannot be opened or written is given up: the rest of what is appended is dropped, and
// why is told once, by AwaitOpen to whoever waits for it, else by TakeFailure.
//
// Thread-safe. Destruction waits for nothing: a thread that the kernel holds is left behind, with
// what it had to write.

#ifndef DSRUN_AGENT_LOG_FILE_H_
#define DSRUN_AGENT_LOG_FILE_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace dsrun::agent {

class LogFile {
 public:
  static constexpr size_t kRoomBytes = 1 << 20;

  // Begins to open `path` for appending; folders are made. `on_change`: there is room again, a call
  // of the system that took long has come back, or the file is given up or closed. Called from the
  // file's thread without a lock, also when this object is gone; must not block. `clock` must
  // outlive the process's threads. Errors: RESOURCE_EXHAUSTED: no thread.
  static absl::StatusOr<std::shared_ptr<LogFile>> Open(std::string path,
                                                       std::function<void()> on_change,
                                                       Clock* clock);
  ~LogFile();

  // Waits until the file is open or cannot be opened, `limit` of real time at most.
  // Errors: DEADLINE_EXCEEDED: neither yet, and it goes on. Else as the system says why it cannot.
  absl::Status AwaitOpen(absl::Duration limit) const;

  bool HasRoom() const;
  void Append(std::string_view bytes);
  // Nothing more is appended: what waits is written, then the file is closed.
  void Close();

  // Waits until the disk has taken everything (of a file that is closed: that, too), `limit` of
  // real time at most. The bytes that it has not taken; 0: all is well, or given up before.
  size_t AwaitWritten(absl::Duration limit) const;
  // Closed, or given up and closed: its thread has ended or is about to.
  bool done() const;

  // When the call of the system that the thread is in was made (steady, of `clock`); infinite: it
  // is in none. A disk that takes something, however slowly, is never in one for long.
  SteadyTime busy_since() const;
  // Why it was given up; OK: it was not, or that is told already.
  absl::Status TakeFailure();
  const std::string& path() const;

 private:
  struct Shared;

  explicit LogFile(std::shared_ptr<Shared> shared);
  static void Run(const std::shared_ptr<Shared>& shared);
  static void WriteAll(Shared& shared, int fd);

  const std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_LOG_FILE_H_
