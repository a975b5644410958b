#include "launcher/console/output_writer.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/base/thread.h"

namespace dsrun::launcher {
namespace {

// To the beginning of the line, and clear it.
constexpr char kClearLine[] = "\r\033[K";
constexpr int kPollMs = 50;

}  // namespace

OutputWriter::OutputWriter(Options options)
    : options_(options), thread_(StartThreadOrEnd("standard output", [this] { Loop(); })) {}

OutputWriter::~OutputWriter() { Close(absl::Seconds(1)); }

void OutputWriter::Write(To to, std::string text) {
  MutexLock lock(mu_);
  if (closing_) return;
  lines_.push_back({to, std::move(text), false});
  changed_.NotifyAll();
}

bool OutputWriter::WriteDroppable(To to, std::string text) {
  MutexLock lock(mu_);
  if (closing_ || droppable_bytes_ + text.size() > options_.most_bytes) return false;
  droppable_bytes_ += text.size();
  lines_.push_back({to, std::move(text), true});
  changed_.NotifyAll();
  return true;
}

void OutputWriter::SetStatusLine(std::string text) {
  MutexLock lock(mu_);
  if (closing_ || text == status_) return;
  status_ = std::move(text);
  status_changed_ = true;
  changed_.NotifyAll();
}

void OutputWriter::Close(absl::Duration patience) {
  {
    MutexLock lock(mu_);
    if (!closing_) {
      closing_ = true;
      give_up_after_ = patience;
    }
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void OutputWriter::Loop() {
  bool last = false;
  while (!last) {
    std::deque<Line> lines;
    std::string status;
    {
      MutexLock lock(mu_);
      while (lines_.empty() && !status_changed_ && !closing_) changed_.Wait(mu_);
      lines = std::exchange(lines_, {});
      droppable_bytes_ = 0;
      status = status_;
      status_changed_ = false;
      last = closing_;
    }
    const bool redraw = !lines.empty() || status != shown_;
    if (redraw && !shown_.empty()) WriteAll(options_.out_fd, kClearLine);
    for (const Line& line : lines) {
      WriteAll(line.to == To::kOut ? options_.out_fd : options_.err_fd, line.text);
    }
    if (redraw && !status.empty()) WriteAll(options_.out_fd, status);
    shown_ = std::move(status);
  }
  if (!shown_.empty()) WriteAll(options_.out_fd, "\n");
}

void OutputWriter::WriteAll(int fd, const std::string& bytes) {
  bool& gone = gone_[fd == options_.out_fd ? 0 : 1];
  size_t done = 0;
  absl::Duration waited;
  while (!gone && done < bytes.size()) {
    pollfd waiting{.fd = fd, .events = POLLOUT, .revents = 0};
    if (poll(&waiting, 1, kPollMs) == 0) {
      MutexLock lock(mu_);
      waited += absl::Milliseconds(kPollMs);
      if (closing_ && waited >= give_up_after_) gone = true;
      continue;
    }
    // A pipe that poll calls writable takes PIPE_BUF bytes without blocking.
    const size_t chunk = std::min<size_t>(bytes.size() - done, PIPE_BUF);
    const ssize_t written = write(fd, bytes.data() + done, chunk);
    if (written > 0) {
      done += static_cast<size_t>(written);
      waited = absl::ZeroDuration();
    } else if (errno != EINTR && errno != EAGAIN) {
      gone = true;  // EPIPE and the like: nobody reads any more
    }
  }
}

}  // namespace dsrun::launcher
