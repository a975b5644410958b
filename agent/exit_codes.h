// Exit codes of dsagent, as its starter sees them (docs/errors.md).

#ifndef DSRUN_AGENT_EXIT_CODES_H_
#define DSRUN_AGENT_EXIT_CODES_H_

namespace dsrun::agent {

inline constexpr int kExitOk = 0;           // the job is over, or told to stop; nothing is left
inline constexpr int kExitCannotStart = 1;  // the reason is on standard error
inline constexpr int kExitUsage = 90;       // bad flag or bad cluster key
// The agent fell silent, and was killed with its tree; or it could not be killed (the log says
// why).
inline constexpr int kExitAgentStopped = 111;
// 128 + n: the agent was ended by signal n; its tree is gone.
inline constexpr int kExitAgentSignal = 128;

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_EXIT_CODES_H_
