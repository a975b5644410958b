// The one door to glog: LOG, VLOG, CHECK. No other file includes <glog/logging.h>, and no file
// includes absl/log. LOG(INFO) for transitions ("old -> new: reason"), VLOG(1) and up for ticks.
// CHECK is for our own bugs only.

#ifndef DSRUN_COMMON_BASE_LOGGING_H_
#define DSRUN_COMMON_BASE_LOGGING_H_

#include <glog/logging.h>

#include <string>

namespace dsrun {

// Starts logging to standard error; every line of this process is then prefixed "[who] ". Call
// once, first in main; it starts a thread that takes no signals.
// A line holds up nobody, whatever standard error is and does (log_writer.h): a loop that decides
// may log. What waits there is written before the process ends by exit(), by a fault, at a limit
// (limits.h), by an exception in a thread (thread.h) or by a failed CHECK, for 1 s at most after
// the last line that was taken; by a failed CHECK it ends within 2 s, whatever stands in the way of
// its last words. On a terminal, bytes of others that would move its cursor are spelt out.
void InitLogging(const char* program, const std::string& who);

// What waits is written, with the same patience, and not without an end. For those who end the
// process by other ways: _exit() and its kin.
void FlushLog();

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_LOGGING_H_
