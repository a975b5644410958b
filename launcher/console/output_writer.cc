#include "launcher/console/output_writer.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/mutex.h"
#include "common/base/nonblocking_output.h"
#include "common/base/thread.h"

namespace dsrun::launcher {
namespace {

// To the beginning of the line, and clear it.
constexpr char kClearLine[] = "\r\033[K";
constexpr absl::Duration kLook = absl::Milliseconds(50);
constexpr int kAgainMs = 1;
// From the end of patience to leaving a thread behind that the system does not give back.
constexpr absl::Duration kGrace = absl::Seconds(1);
constexpr char kTakesNothing[] = "its reader takes nothing";

int64_t LinesIn(std::string_view text) {
  const int64_t whole = std::count(text.begin(), text.end(), '\n');
  return whole + (text.empty() || text.back() == '\n' ? 0 : 1);
}

// One of the two, of the thread. A line that was torn off is ended before anything else.
struct Stream {
  Stream(int fd, const char* its_name) : output(fd), name(its_name) {}

  const NonblockingOutput output;
  const char* const name;
  std::string gone;     // why nobody reads any more
  std::string failing;  // why the last text was not written, where that may pass
  int64_t lost_lines = 0;
  bool torn = false;
};

}  // namespace

struct OutputWriter::Shared {
  struct Line {
    To to;
    std::string text;
  };

  explicit Shared(const Options& given)
      : options(given), out(given.out_fd, "standard output"), err(given.err_fd, "standard error") {}

  bool Add(To to, std::string text, size_t& bytes, size_t most) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  void Run();
  // Writes all of `text`, or counts what is not written as lost.
  void Put(Stream& stream, const std::string& text);
  // The number of bytes written; all of them, unless something is in the way.
  size_t WriteAll(Stream& stream, std::string_view bytes);
  void Lose(Stream& stream, std::string_view text, const std::string& why);
  // Says what a full disk has cost, on standard error.
  void SayLost(Stream& stream, const char* words);
  bool OutOfPatience(absl::Duration waited);
  SteadyTime Moved();

  const Options options;

  Mutex mu;
  CondVar changed;
  std::deque<Line> lines ABSL_GUARDED_BY(mu);
  size_t droppable_bytes ABSL_GUARDED_BY(mu) = 0;
  size_t kept_bytes ABSL_GUARDED_BY(mu) = 0;
  std::string status ABSL_GUARDED_BY(mu);
  bool status_changed ABSL_GUARDED_BY(mu) = false;
  bool closing ABSL_GUARDED_BY(mu) = false;
  bool done ABSL_GUARDED_BY(mu) = false;
  absl::Duration give_up_after ABSL_GUARDED_BY(mu);
  SteadyTime moved_at ABSL_GUARDED_BY(mu);          // when something was last taken
  int64_t unwritten_lines ABSL_GUARDED_BY(mu) = 0;  // given, and neither written nor lost yet
  Loss loss ABSL_GUARDED_BY(mu);

  // The thread's own.
  Stream out;
  Stream err;
  std::string shown;  // the status line as it is on the screen
};

OutputWriter::OutputWriter(Options options)
    : shared_(std::make_shared<Shared>(options)),
      thread_(StartThreadOrEnd("standard output", [shared = shared_] { shared->Run(); })) {}

OutputWriter::~OutputWriter() { Close(absl::Seconds(1)); }

bool OutputWriter::Shared::Add(To to, std::string text, size_t& bytes, size_t most) {
  if (closing || bytes + text.size() > most) return false;
  bytes += text.size();
  unwritten_lines += LinesIn(text);
  lines.push_back({to, std::move(text)});
  changed.NotifyAll();
  return true;
}

void OutputWriter::Write(To to, std::string text) {
  MutexLock lock(shared_->mu);
  const int64_t count = LinesIn(text);
  if (shared_->Add(to, std::move(text), shared_->kept_bytes, shared_->options.most_kept_bytes)) {
    return;
  }
  shared_->loss.lines += count;
  shared_->loss.why = kTakesNothing;
}

bool OutputWriter::WriteDroppable(To to, std::string text) {
  MutexLock lock(shared_->mu);
  return shared_->Add(to, std::move(text), shared_->droppable_bytes, shared_->options.most_bytes);
}

void OutputWriter::SetStatusLine(std::string text) {
  MutexLock lock(shared_->mu);
  if (shared_->closing || text == shared_->status) return;
  shared_->status = std::move(text);
  shared_->status_changed = true;
  shared_->changed.NotifyAll();
}

void OutputWriter::Flush(absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  MutexLock lock(shared_->mu);
  while (shared_->unwritten_lines > 0) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return;
    shared_->changed.WaitFor(shared_->mu, left);
  }
}

OutputWriter::Loss OutputWriter::Close(absl::Duration patience) {
  bool done = false;
  Loss loss;
  {
    MutexLock lock(shared_->mu);
    if (!shared_->closing) {
      shared_->closing = true;
      shared_->give_up_after = patience;
      shared_->moved_at = Clock::Real().SteadyNow();
    }
    shared_->changed.NotifyAll();
    // The thread gives up by itself, unless the system does not give it back.
    while (!shared_->done) {
      const absl::Duration left =
          shared_->moved_at + shared_->give_up_after + kGrace - Clock::Real().SteadyNow();
      if (left <= absl::ZeroDuration()) break;
      shared_->changed.WaitFor(shared_->mu, left);
    }
    done = shared_->done;
    loss = shared_->loss;
    loss.lines += shared_->unwritten_lines;
    if (shared_->unwritten_lines > 0) loss.why = kTakesNothing;
  }
  if (thread_.joinable() && done) thread_.join();
  if (thread_.joinable()) thread_.detach();
  return loss;
}

void OutputWriter::Shared::Run() {
  bool last = false;
  while (!last) {
    std::deque<Line> batch;
    std::string wanted;
    {
      MutexLock lock(mu);
      while (lines.empty() && !status_changed && !closing) changed.Wait(mu);
      batch = std::exchange(lines, {});
      droppable_bytes = 0;
      kept_bytes = 0;
      wanted = status;
      status_changed = false;
      last = closing;
    }
    const bool redraw = !batch.empty() || wanted != shown;
    if (redraw && !shown.empty()) WriteAll(out, kClearLine);
    for (const Line& line : batch) Put(line.to == To::kOut ? out : err, line.text);
    if (redraw && !wanted.empty()) WriteAll(out, wanted);
    shown = std::move(wanted);
  }
  if (!shown.empty()) WriteAll(out, "\n");
  SayLost(out, " were lost: ");
  MutexLock lock(mu);
  done = true;
  changed.NotifyAll();
}

void OutputWriter::Shared::Put(Stream& stream, const std::string& text) {
  if (!stream.failing.empty() && stream.torn && WriteAll(stream, "\n") == 1) stream.torn = false;
  const size_t written = WriteAll(stream, text);
  {
    MutexLock lock(mu);
    unwritten_lines -= LinesIn(text);
    changed.NotifyAll();
  }
  if (written < text.size()) {
    if (written > 0) stream.torn = text[written - 1] != '\n';
    return Lose(stream, std::string_view(text).substr(written),
                stream.failing.empty() ? stream.gone : stream.failing);
  }
  if (!stream.failing.empty()) SayLost(stream, " were lost before this one: ");
}

void OutputWriter::Shared::Lose(Stream& stream, std::string_view text, const std::string& why) {
  const int64_t count = LinesIn(text);
  stream.lost_lines += count;
  MutexLock lock(mu);
  loss.lines += count;
  loss.why = absl::StrCat(stream.name, ": ", why);
}

void OutputWriter::Shared::SayLost(Stream& stream, const char* words) {
  const std::string why = std::exchange(stream.failing, "");
  if (why.empty()) return;
  const int64_t count = std::exchange(stream.lost_lines, 0);
  WriteAll(err,
           absl::StrCat("dsrun: ", Counted(count, "line"), " of ", stream.name, words, why, "\n"));
}

size_t OutputWriter::Shared::WriteAll(Stream& stream, std::string_view bytes) {
  size_t done_bytes = 0;
  SteadyTime moved = Clock::Real().SteadyNow();
  while (stream.gone.empty() && done_bytes < bytes.size()) {
    const ssize_t written =
        stream.output.Write(bytes.data() + done_bytes, bytes.size() - done_bytes);
    if (written > 0) {
      done_bytes += static_cast<size_t>(written);
      moved = Moved();
      continue;
    }
    switch (written == 0 ? EAGAIN : errno) {
      case EINTR:
        break;
      case EAGAIN:
        // A terminal may have room, and not for what is to be written.
        if (stream.output.AwaitRoom(kLook)) poll(nullptr, 0, kAgainMs);
        if (OutOfPatience(Clock::Real().SteadyNow() - moved)) stream.gone = kTakesNothing;
        break;
      case ENOSPC:
      case EDQUOT:
      case EFBIG:
        stream.failing = strerror(errno);
        return done_bytes;
      default:  // EPIPE and the like: nobody reads any more
        stream.gone = strerror(errno);
    }
  }
  return done_bytes;
}

bool OutputWriter::Shared::OutOfPatience(absl::Duration waited) {
  MutexLock lock(mu);
  return closing && waited >= give_up_after;
}

SteadyTime OutputWriter::Shared::Moved() {
  MutexLock lock(mu);
  moved_at = Clock::Real().SteadyNow();
  return moved_at;
}

}  // namespace dsrun::launcher
