// LogPump: the output of the ranks of one node, from their pipes to their files and to whoever
// listens.
//
// Every byte goes to the rank's file, which is never deleted. Whole lines also go to `forward`;
// when that refuses (the console cannot keep up) they are counted and the count travels with the
// next chunk. The last lines are kept for the report of the rank's end: 20, together no more than
// 16 KiB, a long one cut with a mark. Memory is bounded: one partial line of at most 16 KiB and the
// last lines a rank, and what its file has not taken yet (log_file.h).
//
// No disk stands between a rank's end and whoever is told of it: files are opened and written by
// threads of their own, and an end passes through the pipe alone. A rank is never blocked by a slow
// listener, only by a disk that does not take its own file: when more than LogFile::kRoomBytes wait
// its pipe is left alone, until there is room again or its process has ended; then what is in the
// pipe is taken whatever waits. A file that has taken nothing for kStalledAfter, one that goes on,
// and one that cannot be written (disk full) and is given up, are told through `trouble`.
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
#include "agent/log_file.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/base/wake_fd.h"

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
  // A line for people about the log of the rank in that slot. Must not block.
  using Trouble = std::function<void(Slot, std::string)>;

  static constexpr size_t kLastLines = 20;
  static constexpr size_t kLastLineBytes = 2 * 1024;  // of one of the last lines
  static constexpr size_t kLastBytes = 16 * 1024;     // of all of them
  static constexpr size_t kMaxLineBytes = 16 * 1024;
  static constexpr absl::Duration kPartialAfter = absl::Milliseconds(200);
  static constexpr absl::Duration kStalledAfter = absl::Seconds(5);
  // What a file gets for being opened before its process is started all the same.
  static constexpr absl::Duration kOpenWithin = absl::Seconds(1);
  // What the disks get in the destructor.
  static constexpr absl::Duration kCloseWithin = absl::Seconds(1);

  // `clock` must outlive the process's threads.
  static absl::StatusOr<std::unique_ptr<LogPump>> Create(Forward forward,
                                                         Clock* clock = &Clock::Real(),
                                                         Trouble trouble = nullptr);
  // Reads what is there, then closes everything. Pending Finish callbacks are called. What the
  // disks have not taken within kCloseWithin is lost and said in the log.
  ~LogPump();

  struct Pipe {
    int64_t id = 0;
    int write_fd = -1;  // for the process; the caller closes it after the spawn
    // Not open yet, as a rule. Whoever starts the process waits for it, open_within at most: not
    // again for each file of a disk that does not answer.
    std::shared_ptr<LogFile> file;
    absl::Duration open_within;
  };
  // Appends to `path`; folders are made. Waits for no disk.
  // Errors: RESOURCE_EXHAUSTED: no descriptor or thread.
  absl::StatusOr<Pipe> Open(Slot slot, Rank rank, const std::string& path);
  // The process has another rank from now on.
  void SetRank(int64_t id, Rank rank);
  // The process has ended: reads what it left in the pipe, then calls `done` once. Output of what
  // outlived it is still written to the file.
  void Finish(int64_t id, LastLines done);
  // Waits until the disks have taken what was read so far, `limit` at most. A line for people for
  // each file that has not taken everything.
  std::vector<std::string> Flush(absl::Duration limit);
  // Time may have passed: partial lines that have waited long enough are forwarded now. Only needed
  // when the clock is not the real one.
  void Look() { Wake(); }

 private:
  struct Source {
    Slot slot;
    Rank rank;
    int pipe_fd = -1;
    std::shared_ptr<LogFile> file;
    // The line that is not whole yet: what it says, how much of that was forwarded, and whether the
    // next text takes the place of what was.
    std::string partial;
    size_t forwarded = 0;
    bool replaces = false;
    bool at_return = false;                         // its last byte was a carriage return
    absl::Duration due = absl::InfiniteDuration();  // forward it then
    std::deque<std::string> last;
    size_t last_bytes = 0;
    int64_t dropped = 0;
    bool finished = false;
    LastLines done;
  };

  // A file that is not done.
  struct Watched {
    Slot slot;
    std::shared_ptr<LogFile> file;
  };
  LogPump(Forward forward, Clock* clock, Trouble trouble, WakeFd wake);
  void Loop();
  void Wake() { wake_->Wake(); }
  std::vector<std::shared_ptr<Source>> Sources();
  // Reads what is there and answers Finish. True at the end of the pipe: nobody holds its other end
  // any more. `closing`: this is the last look.
  bool Serve(Source& source, bool closing);
  // `all`: also what there is no room for.
  bool Drain(Source& source, bool all);
  void LookAtFiles();
  std::vector<Watched> Files();
  void Take(Source& source, std::string_view bytes);
  // Of one line, without newline; what does not fit is moved on to `text` as lines of their own.
  void TakePart(Source& source, std::string_view part, std::string& text, int64_t& lines);
  void EndLine(Source& source, std::string& text, int64_t& lines);
  std::string NewOfPartial(Source& source);
  void ForwardPartialIfDue(Source& source);
  int PollTimeoutMs(const std::vector<std::shared_ptr<Source>>& sources);
  void KeepLine(Source& source, std::string_view line);
  bool ForwardText(Source& source, std::string text, int64_t lines);
  void FlushPartial(Source& source);
  void CloseSource(Source& source);

  const Forward forward_;
  Clock* const clock_;
  const Trouble trouble_;
  // Threads of files that the kernel holds may outlive the pump, and wake it.
  const std::shared_ptr<const WakeFd> wake_;
  bool stall_told_ = false;  // of the thread: once a node, however many files its disk holds up
  Mutex mu_;
  std::map<int64_t, std::shared_ptr<Source>> sources_ ABSL_GUARDED_BY(mu_);
  std::vector<Watched> files_ ABSL_GUARDED_BY(mu_);
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_LOG_PUMP_H_
