// Limits of this process (ulimit, control groups): which one an error has met, in words, and what a
// program of ours does before it meets one. The kernel and the libraries tell of a limit by a
// signal (SIGXFSZ), an exception (std::thread, operator new) or an abort; here each becomes one
// message that names the limit, its value and what raises it.

#ifndef DSRUN_COMMON_BASE_LIMITS_H_
#define DSRUN_COMMON_BASE_LIMITS_H_

#include <string>

#include "absl/status/status.h"

namespace dsrun {

// What dsrun, dsagent and dsworker return when they end because of a limit (docs/errors.md).
inline constexpr int kExitLimit = 98;

// The limit that explains `error`, an errno, with its value and what raises it; "" if there is none
// that would.
//   EAGAIN          of a new thread or process: "the limit of this user's processes and threads
//                   (RLIMIT_NPROC) is 22; raise it with ulimit -u"
//   EMFILE ENFILE   descriptors
//   ENOMEM          address space
//   EFBIG           file size
std::string LimitWords(int error);
// The same as the end of a message: "; " and the words, or nothing.
std::string BecauseOfLimit(int error);
// Whether memory may be refused although there is some.
bool IsAddressSpaceLimited();

// The first act of main, before any thread exists. From then on
//   - descriptors 0 to 2 are there: those that were closed are /dev/null;
//   - it may open as many descriptors as the hard limit allows: the soft limit, usually 1024, is
//   for
//     programs that use select(), and ours open some for every node. (Children start with the one
//     that this process was given: GiveBackDescriptorLimit);
//   - a file that is too large is an error (EFBIG) and not a signal. (Children start with the
//     default: process_spawn.h);
//   - threads, also those of libraries, have stacks of 8 MiB, whatever `ulimit -s` says; under a
//     limit of the address space 2 MiB, and the allocator reserves none of it for each thread;
//   - memory that cannot be had, an exception that nobody catches, and a failed check of a library
//     while a limit is met end the process with kExitLimit and a line on standard error.
// `program`: for that line; must live as long as the process.
void PrepareForLimits(const char* program);

// In a child, before exec, when no descriptor is made any more: the soft limit of descriptors that
// PrepareForLimits found, because a user's program may rely on it (an array of that size, select).
// Makes a raw system call and nothing else. Nothing to give back: does nothing.
void GiveBackDescriptorLimit();

// What a program is going to need here, at least.
struct LimitNeeds {
  int threads = 0;      // in this process, with their stacks
  int elsewhere = 0;    // threads in the processes that it starts, with their main threads
  int descriptors = 0;  // in this process
  std::string what;     // "this job", "dsagent", ...
};
// Whether that can be had now: threads are started and ended again, so that whatever limits them
// counts. Errors: RESOURCE_EXHAUSTED: no; names the limit.
absl::Status CheckLimits(const LimitNeeds& needs);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_LIMITS_H_
