// A process that is dead to everybody and has not ended: SIGKILL, a crash or its own exit has
// reached it, no code of its program runs any more, and a thread of it still waits in the kernel,
// where nothing wakes it (state D: an fsync that the disk does not answer). Nothing tells of it
// then: it is no child that can be reaped, its pidfd says nothing, its descriptors stay open and
// its memory stays held. /proc tells.
//
// A process whose main thread alone has ended, while others run on, is not dying; nor is one that
// executes another program, which ends all of its threads but one.
//
// Not seen where /proc hides other users' processes. Thread-safe.

#ifndef DSRUN_COMMON_BASE_DYING_PROCESS_H_
#define DSRUN_COMMON_BASE_DYING_PROCESS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "common/base/process_runner.h"

namespace dsrun {

struct DyingLook {
  bool dying = false;             // the rest means something only then
  bool dumps_core = false;        // and what it waits for may be that alone
  int32_t stuck_thread = 0;       // it waits in the kernel, uninterruptibly; 0: none does
  std::string thread_name = {};   // of stuck_thread, as the next one, as far as it can be read
  std::string wait_channel = {};  // the kernel's function in which it waits
  std::string program = {};       // the name of the process
  ProcessEnd end = {};            // how it will have ended, as far as the kernel tells
};

// One file of /proc for a process that is not dying, and some for every thread of one that is.
DyingLook LookAtDying(int32_t pid);

// "process 71 (dsworker) is dead and does not end: its thread 75 (save-writer) waits in the kernel
// (state D, in request_wait_answer) for a disk or file server; it ends when that answers".
std::string DyingWords(int32_t pid, const DyingLook& look);

// The same as the end of a sentence on its death, for those who know which process it is: "its
// thread save-writer waits in the kernel (state D), so it ends when the disk answers".
std::string DyingCause(const DyingLook& look);

// How long a process has been seen dying, look by look, and when to wait for its end no longer. A
// value; time comes as an argument.
class DyingFor {
 public:
  // A thread that is seen twice in one uninterruptible wait, so far apart, is stuck: what ends by
  // itself ends in far less.
  static constexpr absl::Duration kStuck = absl::Milliseconds(50);
  // Whatever it is that a process does all that time (a debugger holds it, much memory is given
  // back). One that dumps its core is left to do so.
  static constexpr absl::Duration kAnything = absl::Seconds(2);

  // True: nobody should wait for its end.
  bool Note(const DyingLook& look, absl::Duration now);
  // Since when it was seen dying, at every look; infinite: it was not, at the last one.
  absl::Duration since() const { return since_; }

 private:
  absl::Duration since_ = absl::InfiniteDuration();
  int32_t stuck_thread_ = 0;
  absl::Duration stuck_since_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_DYING_PROCESS_H_
