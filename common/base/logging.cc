#include "common/base/logging.h"

#include <unistd.h>

#include <sstream>

namespace dsrun {
namespace {

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
    const std::string text = out.str();
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
  }

 private:
  const std::string who_;
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
