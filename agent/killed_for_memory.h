// KilledForMemory: whether a worker that SIGKILL has ended was ended by the kernel because memory
// had run out. The signal does not say who sent it; the kernel counts whom it kills
// (common/base/machine_memory.h), for a control group and for the machine, before they end.
//
// Thread-safe.

#ifndef DSRUN_AGENT_KILLED_FOR_MEMORY_H_
#define DSRUN_AGENT_KILLED_FOR_MEMORY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "common/base/machine_memory.h"
#include "common/base/mutex.h"

namespace dsrun::agent {

class KilledForMemory {
 public:
  // `read`: what the kernel has counted so far; called at once, for what was before.
  explicit KilledForMemory(std::function<OomKills()> read)
      : read_(std::move(read)), told_(read_().count) {}

  // A worker was ended by a SIGKILL that this agent did not send. The cause, as the end of a
  // sentence, where the kernel has counted a kill that no earlier call has told of; else empty.
  // Where the machine's kills are counted, others' among them, it is a guess and says so.
  std::string Explain();

 private:
  const std::function<OomKills()> read_;
  Mutex mu_;
  int64_t told_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_KILLED_FOR_MEMORY_H_
