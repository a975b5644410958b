#include "common/base/logging.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "common/base/escaped.h"
#include "common/base/log_writer.h"
#include "common/base/nonblocking_output.h"

namespace dsrun {
namespace {

// From a failed CHECK to the end of the process.
constexpr unsigned kFatalSeconds = 2;
constexpr absl::Duration kFlushLimit = absl::Seconds(2);

LogWriter* writer = nullptr;  // lives as long as the process

// The C library's abort() waits for whoever aborts already.
void AbortNow(int) {
  signal(SIGABRT, SIG_DFL);
  raise(SIGABRT);
}

// After a fatal message glog writes its stack to standard error, and waits there for ever.
void AbortWithin(unsigned seconds) {
  struct sigaction action = {};
  action.sa_handler = &AbortNow;
  sigaction(SIGALRM, &action, nullptr);
  sigset_t alarms;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  sigaddset(&alarms, SIGABRT);
  pthread_sigmask(SIG_UNBLOCK, &alarms, nullptr);
  alarm(seconds);
}

// Prints "I1121 10:04:05.123456 file.cc:88] [who] text".
// Debian's glog is built without its custom-prefix feature; a sink does the same.
class PrefixSink : public google::LogSink {
 public:
  explicit PrefixSink(std::string who) : who_(std::move(who)) {}

  void send(google::LogSeverity severity, const char* /*full_filename*/, const char* base_filename,
            int line, const google::LogMessageTime& time, const char* message,
            size_t message_length) override {
    std::string_view words(message, message_length);
    const std::string escaped = terminal_ ? Escaped(words, "\n\t") : "";
    if (terminal_) words = escaped;
    std::ostringstream out;
    out << ToString(severity, base_filename, line, time, "", 0) << '[' << who_ << "] " << words
        << '\n';
    if (severity == google::GLOG_FATAL) AbortWithin(kFatalSeconds);
    writer->Add(out.str());
    if (severity == google::GLOG_FATAL) writer->Flush(kFlushLimit);
  }

 private:
  const std::string who_;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
};

// ---- Faults: what was said before is the best hint at the cause.

constexpr int kFaults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
struct sigaction before[NSIG];

// The fault comes again when this returns, and is for whoever took it before.
void OnFault(int fault, siginfo_t* info, void*) {
  const int saved = errno;
  writer->FlushInHandler();
  sigaction(fault, &before[fault], nullptr);
  if (info->si_code <= 0) raise(fault);  // one that was sent does not come again by itself
  errno = saved;
}

void FlushBeforeFaults() {
  for (const int fault : kFaults) {
    struct sigaction action = {};
    action.sa_sigaction = &OnFault;
    action.sa_flags = SA_ONSTACK | SA_SIGINFO;
    sigaction(fault, &action, &before[fault]);
  }
}

}  // namespace

void InitLogging(const char* program, const std::string& who) {
  FLAGS_logtostderr = false;
  FLAGS_alsologtostderr = false;
  FLAGS_stderrthreshold = google::NUM_SEVERITIES;  // the sink prints, glog itself does not
  google::InitGoogleLogging(program);
  for (int severity = 0; severity < google::NUM_SEVERITIES; ++severity) {
    google::SetLogDestination(severity, "");  // no log files in /tmp
  }
  writer = new LogWriter({.fd = STDERR_FILENO, .who = who});
  google::AddLogSink(new PrefixSink(who));  // lives as long as the process
  FlushBeforeFaults();
  SetFlushBeforeLastWords([] { writer->FlushInHandler(); });
  atexit(&FlushLog);
}

void FlushLog() {
  if (writer != nullptr) writer->Flush(kFlushLimit);
}

}  // namespace dsrun
