#include "launcher/console/output_writer.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/mutex.h"
#include "common/base/nonblocking_output.h"
#include "common/base/thread_signals.h"
#include "launcher/console/terminal_text.h"

namespace dsrun::launcher {
namespace {

// To the beginning of the line, and clear it.
constexpr char kClearLine[] = "\r\033[K";
constexpr absl::Duration kLook = absl::Milliseconds(50);
constexpr int kAgainMs = 1;
// From the end of patience to leaving a thread behind that the system does not give back.
constexpr absl::Duration kGrace = absl::Seconds(1);
constexpr char kTakesNothing[] = "its reader takes nothing";
constexpr char kTakesTooLittle[] = "its reader was too slow at the end";
constexpr size_t kUsualColumns = 80;  // of a terminal that does not say

std::string FormThatFits(const std::vector<std::string>& forms, size_t columns) {
  for (const std::string& form : forms) {
    if (Columns(form) <= columns) return form;
  }
  return forms.empty() ? "" : std::string(FirstColumns(forms.back(), columns));
}

int64_t LinesIn(std::string_view text) {
  const int64_t whole = std::count(text.begin(), text.end(), '\n');
  return whole + (text.empty() || text.back() == '\n' ? 0 : 1);
}

bool AreOneFile(int a, int b) {
  struct stat a_info, b_info;
  return fstat(a, &a_info) == 0 && fstat(b, &b_info) == 0 && a_info.st_dev == b_info.st_dev &&
         a_info.st_ino == b_info.st_ino;
}

// One of the two, of the thread. A line that was torn off is ended before anything else.
struct Stream {
  Stream(int fd, const char* its_name, size_t its_lane)
      : output(fd), name(its_name), lane(its_lane) {}

  const NonblockingOutput output;
  const char* const name;
  const size_t lane;    // of Shared
  std::string gone;     // why nobody reads any more
  bool left = false;    // of its own will
  std::string failing;  // why the last text was not written, where that may pass
  int64_t lost_lines = 0;
  bool torn = false;
};

}  // namespace

// Without a cursor that waits behind the last
// column, which terminals do not agree about.
size_t RowColumns(int fd) {
  if (isatty(fd) != 1) return std::numeric_limits<size_t>::max();
  winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) size.ws_col = kUsualColumns;
  return size.ws_col - 1u;
}

// Where both are the same open file, one lane has both and keeps their order. Else each has its
// own, and its own thread: nobody sees an order between two files, and a reader of one who takes
// nothing must not keep the other from what it is to read.
struct OutputWriter::Shared {
  struct Line {
    To to;
    std::string text;
    bool droppable;
  };
  struct Lane {
    std::deque<Line> lines;
    size_t droppable_bytes = 0;
    size_t kept_bytes = 0;
    SteadyTime moved_at;  // when something was last taken
    bool done = false;
  };
  static constexpr size_t kFirst = 0;

  explicit Shared(const Options& given)
      : options(given),
        lane_of_err(AreOneFile(given.out_fd, given.err_fd) ? kFirst : kFirst + 1),
        out(given.out_fd, "standard output", kFirst),
        err(given.err_fd, "standard error", lane_of_err) {}

  size_t LaneOf(To to) const { return to == To::kOut ? kFirst : lane_of_err; }
  void Push(To to, std::string text, bool droppable) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  bool Add(To to, std::string text, bool droppable) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // The last lines of a lane are about to be written. The other's loss is said on the second.
  bool IsEnding(size_t lane) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return closing && (lane == kFirst || lanes[kFirst].done);
  }
  bool IsDone() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return lanes[kFirst].done && lanes[lane_of_err].done;
  }
  void Run(size_t lane);
  // Clears and draws the status line around these.
  void WriteBatch(const std::deque<Line>& batch, const std::vector<std::string>& forms,
                  bool redraw);
  // Writes all of `text`, or counts what is not written as lost.
  void Put(Stream& stream, const Line& line);
  // The number of bytes written; all of them, unless something is in the way.
  size_t WriteAll(Stream& stream, std::string_view bytes);
  // Of a text of `lines`, `rest` is lost. `failed`: it was to be seen.
  void Lose(Stream& stream, std::string_view rest, int64_t lines, const std::string& why,
            bool failed);
  // Says what a full disk, or a reader that takes nothing, has cost, on standard error. While all
  // ends the other lane keeps it for its last.
  void SayLost(Stream& stream, const char* words);
  // Of the second lane, when both have nothing else any more.
  void SayLastWords();
  bool HasLastWords(size_t lane) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return lane != kFirst && Clock::Real().SteadyNow() < last_words_by;
  }
  // Of the end: nothing was taken for too long.
  bool OutOfPatience(size_t lane);
  // Of the end: so much of its time is over.
  bool IsOver(size_t lane, double part);
  void Moved(size_t lane);

  const Options options;
  const size_t lane_of_err;

  Mutex mu;
  CondVar changed;
  Lane lanes[2] ABSL_GUARDED_BY(mu);
  std::vector<std::string> status ABSL_GUARDED_BY(mu);
  bool status_changed ABSL_GUARDED_BY(mu) = false;
  bool resized ABSL_GUARDED_BY(mu) = false;
  bool closing ABSL_GUARDED_BY(mu) = false;
  absl::Duration give_up_after ABSL_GUARDED_BY(mu);
  SteadyTime closing_since ABSL_GUARDED_BY(mu);
  int64_t unwritten_lines ABSL_GUARDED_BY(mu) = 0;  // given, and neither written nor lost yet
  Loss loss ABSL_GUARDED_BY(mu);
  std::string last_words ABSL_GUARDED_BY(mu);    // of the second lane
  SteadyTime last_words_by ABSL_GUARDED_BY(mu);  // once it says them

  // Of the thread of their lane.
  Stream out;
  Stream err;
  std::string shown;  // the status line as it is on the screen; with `out`
};

OutputWriter::OutputWriter(Options options) : shared_(std::make_shared<Shared>(options)) {
  for (size_t lane = 0; lane <= shared_->lane_of_err; ++lane) {
    threads_.push_back(LeavableThread::StartOrEnd(lane == 0 ? "standard output" : "standard error",
                                                  [shared = shared_, lane] { shared->Run(lane); }));
  }
}

OutputWriter::~OutputWriter() { Close(absl::Seconds(1)); }

void OutputWriter::Shared::Push(To to, std::string text, bool droppable) {
  unwritten_lines += LinesIn(text);
  lanes[LaneOf(to)].lines.push_back({to, std::move(text), droppable});
  changed.NotifyAll();
}

bool OutputWriter::Shared::Add(To to, std::string text, bool droppable) {
  Lane& lane = lanes[LaneOf(to)];
  size_t& waiting = droppable ? lane.droppable_bytes : lane.kept_bytes;
  const size_t most = droppable ? options.most_bytes : options.most_kept_bytes;
  if (closing || waiting + text.size() > most) return false;
  waiting += text.size();
  Push(to, std::move(text), droppable);
  return true;
}

void OutputWriter::Write(To to, std::string text) {
  MutexLock lock(shared_->mu);
  const int64_t count = LinesIn(text);
  if (shared_->Add(to, std::move(text), /*droppable=*/false)) return;
  shared_->loss.lines += count;
  shared_->loss.why = kTakesNothing;
  shared_->loss.failed = true;
}

bool OutputWriter::WriteDroppable(To to, std::string text) {
  MutexLock lock(shared_->mu);
  return shared_->Add(to, std::move(text), /*droppable=*/true);
}

void OutputWriter::SetStatusLine(std::vector<std::string> forms) {
  MutexLock lock(shared_->mu);
  if (shared_->closing || forms == shared_->status) return;
  shared_->status = std::move(forms);
  shared_->status_changed = true;
  shared_->changed.NotifyAll();
}

void OutputWriter::Resized() {
  MutexLock lock(shared_->mu);
  shared_->resized = true;
  shared_->changed.NotifyAll();
}

size_t OutputWriter::Columns() const { return RowColumns(shared_->options.out_fd); }

void OutputWriter::Flush(absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  MutexLock lock(shared_->mu);
  while (shared_->unwritten_lines > 0) {
    if (!shared_->changed.WaitUntil(shared_->mu, deadline)) return;
  }
}

OutputWriter::Loss OutputWriter::Close(absl::Duration patience) {
  std::vector<bool> done;
  Loss loss;
  {
    MutexLock lock(shared_->mu);
    if (!shared_->closing) {
      shared_->closing = true;
      shared_->give_up_after = patience;
      shared_->closing_since = Clock::Real().SteadyNow();
      for (Shared::Lane& lane : shared_->lanes) lane.moved_at = shared_->closing_since;
    }
    shared_->changed.NotifyAll();
    // The threads give up by themselves, unless the system does not give them back.
    while (!shared_->IsDone()) {
      const SteadyTime moved_at = std::max(shared_->lanes[0].moved_at, shared_->lanes[1].moved_at);
      const SteadyTime by = std::min(moved_at + shared_->give_up_after,
                                     shared_->closing_since + shared_->options.end_within);
      if (!shared_->changed.WaitUntil(shared_->mu, kGrace + std::max(by, shared_->last_words_by))) {
        break;
      }
    }
    for (const Shared::Lane& lane : shared_->lanes) done.push_back(lane.done);
    loss = shared_->loss;
    loss.lines += shared_->unwritten_lines;
    if (shared_->unwritten_lines > 0) {
      loss.why = kTakesNothing;
      loss.failed = true;
    }
  }
  for (size_t lane = 0; lane < threads_.size(); ++lane) {
    threads_[lane].JoinOrLeave(done[lane] ? kGrace : absl::ZeroDuration());
  }
  threads_.clear();
  return loss;
}

void OutputWriter::Shared::Run(size_t lane) {
  BlockSignalsButFaults();
  bool last = false;
  while (!last) {
    std::deque<Line> batch;
    std::vector<std::string> forms;
    bool redraw = false;
    {
      MutexLock lock(mu);
      Lane& mine = lanes[lane];
      while (mine.lines.empty() && !IsEnding(lane) &&
             (lane != kFirst || (!status_changed && !resized))) {
        changed.Wait(mu);
      }
      batch = std::exchange(mine.lines, {});
      mine.droppable_bytes = 0;
      mine.kept_bytes = 0;
      last = IsEnding(lane);
      if (lane == kFirst) {
        forms = status;
        redraw = std::exchange(resized, false);
        status_changed = false;
      }
    }
    if (lane == kFirst) {
      WriteBatch(batch, forms, redraw);
    } else {
      for (const Line& line : batch) Put(err, line);
    }
  }
  if (lane == kFirst && !shown.empty()) WriteAll(out, "\n");
  if (lane == kFirst) {
    if (!out.gone.empty() && !out.left && out.lost_lines > 0) out.failing = out.gone;
    SayLost(out, " were lost: ");
  } else {
    SayLastWords();
  }
  MutexLock lock(mu);
  lanes[lane].done = true;
  changed.NotifyAll();
}

void OutputWriter::Shared::WriteBatch(const std::deque<Line>& batch,
                                      const std::vector<std::string>& forms, bool redraw) {
  std::string wanted = forms.empty() ? "" : FormThatFits(forms, RowColumns(options.out_fd));
  redraw = redraw || !batch.empty() || wanted != shown;
  if (redraw && !shown.empty()) WriteAll(out, kClearLine);
  for (const Line& line : batch) Put(line.to == To::kOut ? out : err, line);
  if (redraw && !wanted.empty()) WriteAll(out, wanted);
  shown = std::move(wanted);
}

void OutputWriter::Shared::Put(Stream& stream, const Line& line) {
  const std::string& text = line.text;
  const int64_t lines = LinesIn(text);
  if (line.droppable && stream.gone.empty() && IsOver(stream.lane, 0.5)) {
    return Lose(stream, text, lines, kTakesTooLittle, /*failed=*/false);  // the files have it
  }
  if (!stream.failing.empty() && stream.torn && WriteAll(stream, "\n") == 1) stream.torn = false;
  const size_t written = WriteAll(stream, text);
  if (written < text.size()) {
    if (written > 0) stream.torn = text[written - 1] != '\n';
    return Lose(stream, std::string_view(text).substr(written), lines,
                stream.failing.empty() ? stream.gone : stream.failing, /*failed=*/true);
  }
  {
    MutexLock lock(mu);
    unwritten_lines -= lines;
    changed.NotifyAll();
  }
  if (!stream.failing.empty()) SayLost(stream, " were lost before this one: ");
}

void OutputWriter::Shared::Lose(Stream& stream, std::string_view rest, int64_t lines,
                                const std::string& why, bool failed) {
  const int64_t count = LinesIn(rest);
  stream.lost_lines += count;
  MutexLock lock(mu);
  // At once: Close, which may look at any time, finds each line in one of the two.
  unwritten_lines -= lines;
  loss.lines += count;
  loss.why = absl::StrCat(stream.name, ": ", why);
  loss.failed = loss.failed || (failed && !stream.left);
  changed.NotifyAll();
}

void OutputWriter::Shared::SayLost(Stream& stream, const char* words) {
  const std::string why = std::exchange(stream.failing, "");
  if (why.empty()) return;
  const int64_t count = std::exchange(stream.lost_lines, 0);
  std::string text =
      absl::StrCat("dsrun: ", Counted(count, "line"), " of ", stream.name, words, why, "\n");
  if (stream.lane == err.lane) {
    WriteAll(err, text);
    return;
  }
  MutexLock lock(mu);
  if (closing) {
    last_words += text;
  } else {
    Push(To::kErr, std::move(text), /*droppable=*/false);
  }
}

void OutputWriter::Shared::SayLastWords() {
  std::string text;
  {
    MutexLock lock(mu);
    text = last_words;
    if (text.empty()) return;
    last_words_by = Clock::Real().SteadyNow() + options.last_words_within;
    changed.NotifyAll();
  }
  if (err.gone == kTakesNothing || err.gone == kTakesTooLittle) err.gone.clear();
  if (err.torn) text.insert(0, "\n");
  WriteAll(err, text);
}

size_t OutputWriter::Shared::WriteAll(Stream& stream, std::string_view bytes) {
  size_t done_bytes = 0;
  while (stream.gone.empty() && done_bytes < bytes.size()) {
    const ssize_t written =
        stream.output.Write(bytes.data() + done_bytes, bytes.size() - done_bytes);
    if (written > 0) {
      done_bytes += static_cast<size_t>(written);
      Moved(stream.lane);
      if (done_bytes < bytes.size() && IsOver(stream.lane, 1)) stream.gone = kTakesTooLittle;
      continue;
    }
    switch (written == 0 ? EAGAIN : errno) {
      case EINTR:
        break;
      case EAGAIN:
        // A terminal may have room, and not for what is to be written.
        if (stream.output.AwaitRoom(kLook)) poll(nullptr, 0, kAgainMs);
        if (OutOfPatience(stream.lane)) stream.gone = kTakesNothing;
        if (stream.gone.empty() && IsOver(stream.lane, 1)) stream.gone = kTakesTooLittle;
        break;
      case ENOSPC:
      case EDQUOT:
      case EFBIG:
        stream.failing = strerror(errno);
        return done_bytes;
      default: {  // nobody reads any more, or nothing can be written
        const int error = errno;
        stream.gone = strerror(error);
        // A terminal that was closed says EIO, as a disk does that is broken.
        stream.left = error == EPIPE || error == ECONNRESET ||
                      (error == EIO && !stream.output.is_regular_file());
        break;
      }
    }
  }
  return done_bytes;
}

bool OutputWriter::Shared::OutOfPatience(size_t lane) {
  MutexLock lock(mu);
  return closing && !HasLastWords(lane) &&
         Clock::Real().SteadyNow() - lanes[lane].moved_at >= give_up_after;
}

bool OutputWriter::Shared::IsOver(size_t lane, double part) {
  MutexLock lock(mu);
  return closing && !HasLastWords(lane) &&
         Clock::Real().SteadyNow() - closing_since >= part * options.end_within;
}

void OutputWriter::Shared::Moved(size_t lane) {
  MutexLock lock(mu);
  lanes[lane].moved_at = Clock::Real().SteadyNow();
}

}  // namespace dsrun::launcher
