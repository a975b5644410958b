// Events and actions as one line each: for logs, `coordinator_replay` and test transcripts. Pure.
// Secrets never pass through here: the core does not have them.

#ifndef DSRUN_LAUNCHER_COORDINATOR_DESCRIBE_H_
#define DSRUN_LAUNCHER_COORDINATOR_DESCRIBE_H_

#include <string>

#include "launcher/coordinator/events.h"

namespace dsrun::launcher {

// "node 1: worker exited, generation 2, slot 0, killed by signal 9 (...)"
std::string Describe(const Event& event);
// "send to node 1: begin, generation 2: 0:0 0:1"
std::string Describe(const Action& action);
std::string Describe(const OperatorEvent& event);
// The report in a few plain lines, each ending in a newline. Not the screen that a person gets.
std::string Describe(const Report& report);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_DESCRIBE_H_
