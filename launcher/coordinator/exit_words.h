// How a process ended, in words a person can act on. Pure.

#ifndef DSRUN_LAUNCHER_COORDINATOR_EXIT_WORDS_H_
#define DSRUN_LAUNCHER_COORDINATOR_EXIT_WORDS_H_

#include <string>

namespace dsrun::launcher {

// "SIGKILL"; "signal 71" for one without a name.
std::string SignalName(int signal);

// "exited with code 3", "killed by signal 9 (SIGKILL: kill -9, or the kernel out of memory)", ...
// `term_signal` 0: it exited with `exit_code`.
std::string ExitWords(int exit_code, int term_signal, bool core_dumped);

// Whether it asks for an end: HUP, INT, QUIT, TERM, USR1, USR2. What a scheduler or an operator
// sends to every process of a job.
bool IsStopSignal(int signal);

// What dsrun returns for a rank that ended so: its code, or 128 + signal. 255 for what no process
// can say, which an agent may all the same: never 0 by accident.
int ShellExitCode(int exit_code, int term_signal);

// Whether a process brings this signal on itself: a fault, a failed check, a limit. Any other one
// was sent by somebody else.
bool IsOwnSignal(int signal);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_EXIT_WORDS_H_
