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
// A line that is not whole yet (a prompt, a row of dots) is forwarded as far as it goes once it has
// waited for kPartialAfter, and what comes of it later is forwarded as its continuation. A carriage
// return that no newline follows starts the line anew, as on a terminal: what stood there before is
// forgotten, here and for the last lines, so a progress bar that is redrawn a thousand times a
// second is forwarded in its newest state every kPartialAfter. See LogLines for how this looks.
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
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"

namespace dsrun::agent {

// What one rank wrote: whole lines, each ended by a newline, and perhaps the beginning of one more.
// The next text of this rank goes on where this one ends; one that begins with a carriage return
// takes the place of what was forwarded of that line so far. No other carriage return is in it.
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
  static constexpr absl::Duration kPartialAfter = absl::Milliseconds(200);

  // `clock` must outlive the pump.
  static absl::StatusOr<std::unique_ptr<LogPump>> Create(Forward forward,
                                                         Clock* clock = &Clock::Real());
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
  // Time may have passed: partial lines that have waited long enough are forwarded now. Only needed
  // when the clock is not the real one.
  void Look() { Wake(); }

 private:
  struct Source {
    Slot slot;
    Rank rank;
    int pipe_fd = -1;
    int file_fd = -1;
    std::string path;
    // The line that is not whole yet: what it says, how much of that was forwarded, and whether the
    // next text takes the place of what was.
    std::string partial;
    size_t forwarded = 0;
    bool replaces = false;
    bool at_return = false;                         // its last byte was a carriage return
    absl::Duration due = absl::InfiniteDuration();  // forward it then
    std::deque<std::string> last;
    int64_t dropped = 0;
    bool finished = false;
    LastLines done;
  };

  LogPump(Forward forward, Clock* clock, int wake_fd);
  void Loop();
  void Wake();
  std::vector<std::shared_ptr<Source>> Sources();
  // Reads what is there and answers Finish. True at the end of the pipe: nobody holds its other end
  // any more.
  bool Serve(Source& source);
  bool Drain(Source& source);
  void Take(Source& source, std::string_view bytes);
  // Of one line, without newline; what does not fit is moved on to `text` as lines of their own.
  void TakePart(Source& source, std::string_view part, std::string& text, int64_t& lines);
  void EndLine(Source& source, std::string& text, int64_t& lines);
  std::string NewOfPartial(Source& source);
  void ForwardPartialIfDue(Source& source);
  int PollTimeoutMs(const std::vector<std::shared_ptr<Source>>& sources) const;
  void WriteFile(Source& source, std::string_view bytes);
  void KeepLine(Source& source, std::string_view line);
  bool ForwardText(Source& source, std::string text, int64_t lines);
  void FlushPartial(Source& source);
  void CloseSource(Source& source);

  const Forward forward_;
  Clock* const clock_;
  const int wake_fd_;
  Mutex mu_;
  std::map<int64_t, std::shared_ptr<Source>> sources_ ABSL_GUARDED_BY(mu_);
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_LOG_PUMP_H_
