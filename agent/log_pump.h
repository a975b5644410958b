// LogPump: the output of the ranks of one node, from their pipes to their files and to whoever
// listens.
//
// Every byte goes to the rank's file, which is never deleted. Whole lines also go to `forward`;
// when that refuses (the console cannot keep up) they are counted and the count travels with the
// next chunk. The last 20 lines are kept for the report of the rank's end. Memory is bounded: one
// partial line of at most 16 KiB and 20 lines per rank. A rank is never blocked by a slow listener,
// only by a disk that does not take the file; a file that cannot be written (disk full) is given up
// with one warning, and the rest flows on.
//
// One thread reads all pipes. Thread-safe; `forward` and the Finish callbacks run on that thread.

#ifndef DSRUN_AGENT_LOG_PUMP_H_
#define DSRUN_AGENT_LOG_PUMP_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"

namespace dsrun::agent {

// Whole lines of one rank.
struct LogLines {
  Slot slot;
  Rank rank;
  std::string text;  // empty: only the count is news
  int64_t dropped_lines = 0;
};

class LogPump {
 public:
  // False: not now; the lines are counted as dropped. Must not block.
  using Forward = std::function<bool(LogLines)>;
  using LastLines = std::function<void(std::vector<std::string>)>;

  static constexpr size_t kLastLines = 20;
  static constexpr size_t kMaxLineBytes = 16 * 1024;

  static absl::StatusOr<std::unique_ptr<LogPump>> Create(Forward forward);
  // Reads what is there, then closes everything. Pending Finish callbacks are called.
  ~LogPump();

  struct Pipe {
    int64_t id = 0;
    int write_fd = -1;  // for the process; the caller closes it after the spawn
  };
  // Appends to `path`; folders are made. Errors: as the system says why it cannot.
  absl::StatusOr<Pipe> Open(Slot slot, Rank rank, const std::string& path);
  // The process has another rank from now on.
  void SetRank(int64_t id, Rank rank);
  // The process has ended: reads what it left in the pipe, then calls `done` once. Output of what
  // outlived it is still written to the file.
  void Finish(int64_t id, LastLines done);

 private:
  struct Source {
    Slot slot;
    Rank rank;
    int pipe_fd = -1;
    int file_fd = -1;
    std::string path;
    std::string partial;
    std::deque<std::string> last;
    int64_t dropped = 0;
    bool finished = false;
    LastLines done;
  };

  LogPump(Forward forward, int wake_fd);
  void Loop();
  void Wake();
  std::vector<std::shared_ptr<Source>> Sources();
  // Reads what is there and answers Finish. True at the end of the pipe: nobody holds its other end
  // any more.
  bool Serve(Source& source);
  bool Drain(Source& source);
  void Take(Source& source, std::string_view bytes);
  void WriteFile(Source& source, std::string_view bytes);
  void KeepLine(Source& source, std::string_view line);
  void ForwardText(Source& source, std::string text, int64_t lines);
  void FlushPartial(Source& source);
  void CloseSource(Source& source);

  const Forward forward_;
  const int wake_fd_;
  Mutex mu_;
  std::map<int64_t, std::shared_ptr<Source>> sources_ ABSL_GUARDED_BY(mu_);
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_LOG_PUMP_H_
