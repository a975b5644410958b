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
void InitLogging(const char* program, const std::string& who);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_LOGGING_H_
