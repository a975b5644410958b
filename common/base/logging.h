// The one door to glog: LOG, VLOG, CHECK. No other file includes <glog/logging.h>, and no file
// includes absl/log. LOG(INFO) for transitions ("old -> new: reason"), VLOG(1) and up for ticks.
// CHECK is for our own bugs only.

#ifndef DSRUN_COMMON_BASE_LOGGING_H_
#define DSRUN_COMMON_BASE_LOGGING_H_

#include <glog/logging.h>

#include <string>

namespace dsrun {

// Starts logging to standard error; every line of this process is then prefixed "[who] ". Call
// once, first in main.
// A line holds its writer up for 0.25 s at most: what standard error does not take by then (a full
// pipe, a stopped terminal, a full disk) is left out, the lines after it at once, and the next one
// that is taken is preceded by their number.
void InitLogging(const char* program, const std::string& who);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_LOGGING_H_
