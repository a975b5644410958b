#include "agent/log_pump.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "common/base/waits.h"

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

absl::StatusOr<std::unique_ptr<LogPump>> LogPump::Create(Forward forward, Clock* clock,
                                                         Trouble trouble) {
  ASSIGN_OR_RETURN(WakeFd wake, WakeFd::Create());
  std::unique_ptr<LogPump> pump(
      new LogPump(std::move(forward), clock, std::move(trouble), std::move(wake)));
  ASSIGN_OR_RETURN(pump->thread_,
                   StartThread("the ranks' output", [p = pump.get()] { p->Loop(); }));
  return pump;
}

LogPump::LogPump(Forward forward, Clock* clock, Trouble trouble, WakeFd wake)
    : forward_(std::move(forward)),
      clock_(clock),
      trouble_(std::move(trouble)),
      wake_(std::make_shared<const WakeFd>(std::move(wake))) {}

LogPump::~LogPump() {
  {
    MutexLock lock(mu_);
    closing_ = true;
  }
  Wake();
  if (thread_.joinable()) thread_.join();
  for (const Watched& watched : Files()) watched.file->Close();
  for (const std::string& words : Flush(kCloseWithin)) LOG(WARNING) << words;
}

absl::StatusOr<LogPump::Pipe> LogPump::Open(Slot slot, Rank rank, const std::string& path) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return Failed("cannot make a pipe for a rank's output");
  absl::StatusOr<std::shared_ptr<LogFile>> file = LogFile::Open(
      path, [wake = wake_] { wake->Wake(); }, clock_);
  if (!file.ok()) {
    close(fds[0]);
    close(fds[1]);
    return file.status();
  }
  // Only our end: the rank must find a normal, blocking descriptor.
  fcntl(fds[0], F_SETFL, O_NONBLOCK);
  auto source = std::make_shared<Source>();
  source->slot = slot;
  source->rank = rank;
  source->pipe_fd = fds[0];
  source->file = *file;
  Pipe pipe{.id = 0, .write_fd = fds[1], .file = *file, .open_within = kOpenWithin};
  const SteadyTime now = clock_->SteadyNow();
  {
    MutexLock lock(mu_);
    for (const Watched& other : files_) {
      if (now - other.file->busy_since() >= kOpenWithin) pipe.open_within = absl::ZeroDuration();
    }
    pipe.id = next_id_++;
    files_.push_back({slot, *file});
    sources_[pipe.id] = std::move(source);
  }
  Wake();
  return pipe;
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

std::vector<std::string> LogPump::Flush(absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  std::vector<std::string> unwritten;
  for (const Watched& watched : Files()) {
    const absl::Duration left =
        std::max(deadline - Clock::Real().SteadyNow(), absl::ZeroDuration());
    const size_t bytes = watched.file->AwaitWritten(left);
    if (bytes == 0) continue;
    unwritten.push_back(absl::StrCat("the log ", watched.file->path(), " lacks ",
                                     Counted(static_cast<int64_t>(bytes), "byte"),
                                     " that its disk or file server has not taken; look there"));
  }
  return unwritten;
}

std::vector<LogPump::Watched> LogPump::Files() {
  MutexLock lock(mu_);
  return files_;
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
    std::vector<pollfd> fds = {{wake_->fd(), POLLIN, 0}};
    for (const auto& source : sources) {
      // A negative number is not looked at, not even for the end.
      fds.push_back({source->file->HasRoom() ? source->pipe_fd : -1, POLLIN, 0});
    }
    poll(fds.data(), fds.size(), PollTimeoutMs(sources));
    (void)wake_->Take();
    {
      MutexLock lock(mu_);
      closing = closing_;
    }
    for (const auto& source : sources) {
      if (Serve(*source, /*closing=*/false)) CloseSource(*source);
      ForwardPartialIfDue(*source);
    }
    LookAtFiles();
    MutexLock lock(mu_);
    // A source at its end stays until its process is known to have ended: Finish needs its lines.
    std::erase_if(sources_, [](const auto& entry) {
      return entry.second->pipe_fd < 0 && entry.second->finished;
    });
  }
  for (const auto& source : Sources()) {
    Serve(*source, /*closing=*/true);
    CloseSource(*source);
  }
}

// The order matters: what the process wrote was in the pipe before Finish was called, so a look for
// Finish first and at the pipe second misses nothing.
bool LogPump::Serve(Source& source, bool closing) {
  LastLines done;
  {
    MutexLock lock(mu_);
    done = std::exchange(source.done, nullptr);
  }
  const bool at_end = Drain(source, /*all=*/closing || done != nullptr);
  if (done) {
    FlushPartial(source);
    source.finished = true;
    done(std::vector<std::string>(source.last.begin(), source.last.end()));
  }
  return at_end;
}

bool LogPump::Drain(Source& source, bool all) {
  if (source.pipe_fd < 0) return false;
  std::string buffer(kReadBytes, '\0');
  for (int turn = 0; turn < kReadsPerTurn && (all || source.file->HasRoom()); ++turn) {
    const ssize_t got = read(source.pipe_fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;  // empty for now
    if (got == 0) return true;
    Take(source, std::string_view(buffer.data(), got));
  }
  return false;
}

void LogPump::Take(Source& source, std::string_view bytes) {
  source.file->Append(bytes);
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

int LogPump::PollTimeoutMs(const std::vector<std::shared_ptr<Source>>& sources) {
  absl::Duration due = absl::InfiniteDuration();
  for (const auto& source : sources) due = std::min(due, source->due);
  if (!stall_told_) {
    for (const Watched& watched : Files()) {
      due = std::min(due, watched.file->busy_since() + kStalledAfter);
    }
  }
  if (due == absl::InfiniteDuration()) return -1;
  return PollMilliseconds(due - clock_->SteadyNow());
}

// Told behind the lock.
void LogPump::LookAtFiles() {
  std::vector<std::pair<Slot, std::string>> troubles;
  const SteadyTime now = clock_->SteadyNow();
  {
    MutexLock lock(mu_);
    const Watched* stalled = nullptr;
    for (const Watched& watched : files_) {
      if (const absl::Status failure = watched.file->TakeFailure(); !failure.ok()) {
        troubles.emplace_back(watched.slot,
                              absl::StrCat(std::string(failure.message()),
                                           "; the rest of this rank's output goes to the console "
                                           "only"));
      }
      if (now - watched.file->busy_since() >= kStalledAfter) stalled = &watched;
    }
    if (stalled != nullptr && !stall_told_) {
      troubles.emplace_back(
          stalled->slot,
          absl::StrCat("the log ", stalled->file->path(), " has taken nothing for ",
                       absl::FormatDuration(kStalledAfter),
                       ": its disk or file server does not answer. What is printed waits in "
                       "memory, and a rank of this node that prints more than ",
                       LogFile::kRoomBytes >> 20, " MiB waits for the disk; look there"));
    } else if (stalled == nullptr && stall_told_ && !files_.empty()) {
      troubles.emplace_back(files_.front().slot, "the logs of this node are written again");
    }
    stall_told_ = stalled != nullptr;
    std::erase_if(files_, [](const Watched& watched) { return watched.file->done(); });
  }
  for (auto& [slot, text] : troubles) {
    LOG(WARNING) << "slot " << slot << ": " << text;
    if (trouble_) trouble_(slot, std::move(text));
  }
}

// A cut takes whole characters of UTF-8: people read it.
void LogPump::KeepLine(Source& source, std::string_view line) {
  std::string kept(line);
  if (kept.size() > kLastLineBytes) {
    size_t end = kLastLineBytes;
    while (end > kLastLineBytes - 3 && (line[end] & 0xC0) == 0x80) --end;
    kept =
        absl::StrCat(std::string(line.substr(0, end)), " [... ", line.size() - end, " bytes more]");
  }
  source.last_bytes += kept.size();
  source.last.push_back(std::move(kept));
  while (source.last.size() > kLastLines || source.last_bytes > kLastBytes) {
    source.last_bytes -= source.last.front().size();
    source.last.pop_front();
  }
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
  source.pipe_fd = -1;
  source.file->Close();
}

}  // namespace dsrun::agent
