// The keeper: the process that is started as dsagent. It starts the real agent as its child,
// watches it, and when the agent is dead or silent it kills everything below itself. Agent gone =
// its workers gone = node lost; a new agent finds a clean node.
//
//   who ends                noticed by              then
//   agent, whatever way     pidfd, at once          the tree is killed and reaped, documented exit
//   agent stopped or stuck  no beat for the limit   agent killed, the same
//   keeper                  agent, end of its pipe  agent stops its workers and itself
//   a signal to stop here   signalfd                from the starter, or the second one: everything
//                                                   ends, the agent is killed if it lingers. The
//                                                   first one of anybody else: a request, passed on
//                                                   to the agent (stop_signals.h)
//
// The keeper is a child subreaper: what forks twice and makes its own session below it is still its
// descendant and found through /proc. It signals nothing but its own descendants: everything that a
// job started, whatever it did to get lost, and nobody else, for dsagent stands apart
// (common/base/stand_apart.h) before it becomes a keeper. No wait is without a bound: what SIGKILL
// does not end is named in the log, with what it waits in. Single-threaded, makes no RPC, allocates
// little: it must be what never fails.

#ifndef DSRUN_AGENT_KEEPER_H_
#define DSRUN_AGENT_KEEPER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/process_runner.h"

namespace dsrun::agent {

struct KeeperOptions {
  std::string agent_binary;             // absolute
  std::vector<std::string> agent_argv;  // argv[0] included; the keeper adds its own flags
  // For the agent's unix socket: 0700 and empty; removed at the end in any case. Empty: one is
  // made.
  std::string socket_dir;
  std::vector<InheritedFd> fds;  // for the agent, numbers from kFirstPassedFd up; closed here
  // Until the first beat: loading and binding on a busy machine.
  absl::Duration first_beat_within = absl::Seconds(15);
  // From an order to KILL.
  absl::Duration stop_limit = absl::Seconds(20);
  // From KILL to going on without the agent's end, and between two looks at what is left below.
  absl::Duration kill_limit = absl::Seconds(5);
  // Whose first signal is an order: dsrun, when it started this keeper; 0: nobody's. The second
  // signal is one whoever sends it.
  int32_t starter_pid = 0;
};

// Descriptors of the agent: 3 beats, 4 the keeper's life, then those of KeeperOptions.
inline constexpr int kBeatFd = 3;
inline constexpr int kLifeFd = 4;
inline constexpr int kFirstPassedFd = 5;

// Runs until nothing is left below. Returns the exit code (exit_codes.h, or the agent's own).
int RunKeeper(const KeeperOptions& options);

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_KEEPER_H_
