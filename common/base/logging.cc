#include "common/base/logging.h"

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/mutex.h"
#include "common/base/nonblocking_output.h"

namespace dsrun {
namespace {

constexpr absl::Duration kPatience = absl::Milliseconds(250);

// Writes "I1121 10:04:05.123456 file.cc:88] [who] text" to standard error, one write() a line.
// Debian's glog is built without its custom-prefix feature; a sink does the same.
class PrefixSink : public google::LogSink {
 public:
  explicit PrefixSink(std::string who) : who_(std::move(who)) {}

  void send(google::LogSeverity severity, const char* /*full_filename*/, const char* base_filename,
            int line, const google::LogMessageTime& time, const char* message,
            size_t message_length) override {
    std::ostringstream out;
    out << ToString(severity, base_filename, line, time, "", 0) << '[' << who_ << "] ";
    out.write(message, static_cast<std::streamsize>(message_length)) << '\n';
    MutexLock lock(mu_);
    if (lost_ > 0 && Put("[" + who_ + "] left out of this log: " + Counted(lost_, "line") + " (" +
                         why_ + ")\n")) {
      lost_ = 0;
    }
    if (lost_ > 0 || !Put(out.str())) ++lost_;
  }

 private:
  // Whole, or it counts as lost. What was torn off ends its line before anything else is written.
  bool Put(const std::string& line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const std::string text = torn_ ? "\n" + line : line;
    const absl::Duration deadline =
        Clock::Real().SteadyNow() + (lost_ == 0 ? kPatience : absl::ZeroDuration());
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t written = output_.Write(text.data() + done, text.size() - done);
      const int error = written < 0 ? errno : 0;
      if (error == EINTR) continue;
      const absl::Duration left = deadline - Clock::Real().SteadyNow();
      if (error == EAGAIN && left > absl::ZeroDuration() && output_.AwaitRoom(left)) continue;
      if (written <= 0) {
        why_ = error == EAGAIN ? "whoever reads standard error took nothing" : strerror(error);
        torn_ = done > 0 ? text[done - 1] != '\n' : torn_;
        return false;
      }
      done += static_cast<size_t>(written);
    }
    torn_ = false;
    return true;
  }

  const std::string who_;
  const NonblockingOutput output_{STDERR_FILENO};
  Mutex mu_;
  int64_t lost_ ABSL_GUARDED_BY(mu_) = 0;  // lines since one was taken
  std::string why_ ABSL_GUARDED_BY(mu_);
  bool torn_ ABSL_GUARDED_BY(mu_) = false;  // the last thing that was taken has no newline
};

}  // namespace

void InitLogging(const char* program, const std::string& who) {
  FLAGS_logtostderr = false;
  FLAGS_stderrthreshold = google::NUM_SEVERITIES;  // the sink prints, glog itself does not
  google::InitGoogleLogging(program);
  for (int severity = 0; severity < google::NUM_SEVERITIES; ++severity) {
    google::SetLogDestination(severity, "");  // no log files in /tmp
  }
  google::AddLogSink(new PrefixSink(who));  // lives as long as the process
}

}  // namespace dsrun
