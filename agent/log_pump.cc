#include "agent/log_pump.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"

namespace dsrun::agent {
namespace {

constexpr size_t kReadBytes = 64 * 1024;
// Of one rank before the others get their turn; together as much as the largest pipe holds.
constexpr int kReadsPerTurn = 16;

absl::Status Failed(const std::string& what) {
  const int error = errno;
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": ", strerror(error), BecauseOfLimit(error)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogPump>> LogPump::Create(Forward forward, Clock* clock) {
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) return Failed("log pump: cannot make an eventfd");
  std::unique_ptr<LogPump> pump(new LogPump(std::move(forward), clock, wake_fd));
  ASSIGN_OR_RETURN(pump->thread_,
                   StartThread("the ranks' output", [p = pump.get()] { p->Loop(); }));
  return pump;
}

LogPump::LogPump(Forward forward, Clock* clock, int wake_fd)
    : forward_(std::move(forward)), clock_(clock), wake_fd_(wake_fd) {}

LogPump::~LogPump() {
  {
    MutexLock lock(mu_);
    closing_ = true;
  }
  Wake();
  if (thread_.joinable()) thread_.join();
  close(wake_fd_);
}

absl::StatusOr<LogPump::Pipe> LogPump::Open(Slot slot, Rank rank, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const int file_fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_fd < 0) return Failed(absl::StrCat("cannot open the log ", path));
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    close(file_fd);
    return Failed("cannot make a pipe for a rank's output");
  }
  // Only our end: the rank must find a normal, blocking descriptor.
  fcntl(fds[0], F_SETFL, O_NONBLOCK);
  auto source = std::make_shared<Source>();
  source->slot = slot;
  source->rank = rank;
  source->pipe_fd = fds[0];
  source->file_fd = file_fd;
  source->path = path;
  int64_t id = 0;
  {
    MutexLock lock(mu_);
    id = next_id_++;
    sources_[id] = std::move(source);
  }
  Wake();
  return Pipe{id, fds[1]};
}

void LogPump::SetRank(int64_t id, Rank rank) {
  MutexLock lock(mu_);
  const auto it = sources_.find(id);
  if (it != sources_.end()) it->second->rank = rank;
}

void LogPump::Finish(int64_t id, LastLines done) {
  std::vector<std::string> last;
  {
    MutexLock lock(mu_);
    const auto it = sources_.find(id);
    if (it != sources_.end() && !closing_) {
      it->second->done = std::move(done);
      done = nullptr;
      Wake();  // under the lock: `done` may end the job, and the pump with it
    }
  }
  if (done) done({});
}

void LogPump::Wake() {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof(one));
}

std::vector<std::shared_ptr<LogPump::Source>> LogPump::Sources() {
  MutexLock lock(mu_);
  std::vector<std::shared_ptr<Source>> sources;
  for (const auto& [id, source] : sources_) sources.push_back(source);
  return sources;
}

void LogPump::Loop() {
  bool closing = false;
  while (!closing) {
    std::vector<std::shared_ptr<Source>> sources = Sources();
    std::vector<pollfd> fds = {{wake_fd_, POLLIN, 0}};
    for (const auto& source : sources) fds.push_back({source->pipe_fd, POLLIN, 0});
    poll(fds.data(), fds.size(), PollTimeoutMs(sources));
    uint64_t count = 0;
    (void)!read(wake_fd_, &count, sizeof(count));
    {
      MutexLock lock(mu_);
      closing = closing_;
    }
    for (const auto& source : sources) {
      if (Serve(*source)) CloseSource(*source);
      ForwardPartialIfDue(*source);
    }
    MutexLock lock(mu_);
    // A source at its end stays until its process is known to have ended: Finish needs its lines.
    std::erase_if(sources_, [](const auto& entry) {
      return entry.second->pipe_fd < 0 && entry.second->finished;
    });
  }
  for (const auto& source : Sources()) {
    Serve(*source);
    CloseSource(*source);
  }
}

// The order matters: what the process wrote was in the pipe before Finish was called, so a look for
// Finish first and at the pipe second misses nothing.
bool LogPump::Serve(Source& source) {
  LastLines done;
  {
    MutexLock lock(mu_);
    done = std::exchange(source.done, nullptr);
  }
  const bool at_end = Drain(source);
  if (done) {
    FlushPartial(source);
    source.finished = true;
    done(std::vector<std::string>(source.last.begin(), source.last.end()));
  }
  return at_end;
}

bool LogPump::Drain(Source& source) {
  if (source.pipe_fd < 0) return false;
  std::string buffer(kReadBytes, '\0');
  for (int turn = 0; turn < kReadsPerTurn; ++turn) {
    const ssize_t got = read(source.pipe_fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;  // empty for now
    if (got == 0) return true;
    Take(source, std::string_view(buffer.data(), got));
  }
  return false;
}

void LogPump::Take(Source& source, std::string_view bytes) {
  WriteFile(source, bytes);
  std::string text;
  int64_t lines = 0;
  while (!bytes.empty()) {
    const size_t newline = bytes.find('\n');
    TakePart(source, bytes.substr(0, newline), text, lines);
    if (newline == std::string_view::npos) break;
    EndLine(source, text, lines);
    bytes.remove_prefix(newline + 1);
  }
  if (lines > 0) ForwardText(source, std::move(text), lines);
  const bool news = source.replaces || source.forwarded < source.partial.size();
  if (!news) {
    source.due = absl::InfiniteDuration();
  } else if (source.due == absl::InfiniteDuration()) {
    source.due = clock_->SteadyNow() + kPartialAfter;
  }
}

// Of several carriage returns only the last that something follows matters: all before it is
// overwritten.
void LogPump::TakePart(Source& source, std::string_view part, std::string& text, int64_t& lines) {
  const size_t end = part.find_last_not_of('\r');
  const bool returns = !part.empty() && part.back() == '\r';
  if (end == std::string_view::npos) {
    source.at_return = source.at_return || returns;
    return;
  }
  part = part.substr(0, end + 1);
  const size_t last = part.rfind('\r');
  if (last != std::string_view::npos) part.remove_prefix(last + 1);
  if (last != std::string_view::npos || source.at_return) {
    source.replaces = source.replaces || source.forwarded > 0;
    source.partial.clear();
    source.forwarded = 0;
  }
  while (source.partial.size() + part.size() > kMaxLineBytes) {
    const size_t room = kMaxLineBytes - source.partial.size();
    source.partial.append(part.substr(0, room));
    part.remove_prefix(room);
    EndLine(source, text, lines);
  }
  source.partial.append(part);
  source.at_return = returns;
}

void LogPump::EndLine(Source& source, std::string& text, int64_t& lines) {
  KeepLine(source, source.partial);
  text += NewOfPartial(source);
  text += '\n';
  ++lines;
  source.partial.clear();
  source.forwarded = 0;
  source.at_return = false;
}

// What was not forwarded of it; counts as forwarded from now on.
std::string LogPump::NewOfPartial(Source& source) {
  std::string text = source.replaces ? "\r" : "";
  text += source.partial.substr(source.forwarded);
  source.replaces = false;
  source.forwarded = source.partial.size();
  return text;
}

void LogPump::ForwardPartialIfDue(Source& source) {
  if (source.due == absl::InfiniteDuration() || clock_->SteadyNow() < source.due) return;
  source.due = absl::InfiniteDuration();
  const size_t forwarded = source.forwarded;
  const bool replaces = source.replaces;
  if (ForwardText(source, NewOfPartial(source), 0)) return;
  // Nothing is lost yet: it is offered again, or goes with the whole line.
  source.forwarded = forwarded;
  source.replaces = replaces;
  source.due = clock_->SteadyNow() + kPartialAfter;
}

int LogPump::PollTimeoutMs(const std::vector<std::shared_ptr<Source>>& sources) const {
  absl::Duration due = absl::InfiniteDuration();
  for (const auto& source : sources) due = std::min(due, source->due);
  if (due == absl::InfiniteDuration()) return -1;
  const absl::Duration left = std::max(due - clock_->SteadyNow(), absl::ZeroDuration());
  return static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1))));
}

void LogPump::WriteFile(Source& source, std::string_view bytes) {
  while (!bytes.empty() && source.file_fd >= 0) {
    const ssize_t written = write(source.file_fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int error = errno;
      LOG(WARNING) << "log " << source.path << ": cannot be written (" << strerror(error)
                   << BecauseOfLimit(error)
                   << "); the rest of this rank's output goes to the console only";
      close(source.file_fd);
      source.file_fd = -1;
      return;
    }
    bytes.remove_prefix(written);
  }
}

void LogPump::KeepLine(Source& source, std::string_view line) {
  source.last.emplace_back(line);
  if (source.last.size() > kLastLines) source.last.pop_front();
}

bool LogPump::ForwardText(Source& source, std::string text, int64_t lines) {
  Rank rank;
  {
    MutexLock lock(mu_);
    rank = source.rank;
  }
  if (forward_(LogLines{source.slot, rank, std::move(text), source.dropped})) {
    source.dropped = 0;
    return true;
  }
  source.dropped += lines;
  return false;
}

void LogPump::FlushPartial(Source& source) {
  if (!source.partial.empty()) {
    std::string text;
    int64_t lines = 0;
    EndLine(source, text, lines);
    ForwardText(source, std::move(text), lines);
  }
  source.due = absl::InfiniteDuration();
  if (source.dropped > 0) ForwardText(source, "", 0);
}

void LogPump::CloseSource(Source& source) {
  if (source.pipe_fd >= 0) close(source.pipe_fd);
  if (source.file_fd >= 0) close(source.file_fd);
  source.pipe_fd = source.file_fd = -1;
}

}  // namespace dsrun::agent
