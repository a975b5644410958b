// A step of a core beside its twin, restored from its snapshot a moment before: both must do the
// same. Stories, cells and simulated clusters step through this, so every state that they reach is
// one that a snapshot brings back whole.

#ifndef DSRUN_TESTS_LAUNCHER_COORDINATOR_TWIN_H_
#define DSRUN_TESTS_LAUNCHER_COORDINATOR_TWIN_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "launcher/coordinator/coordinator.h"

namespace dsrun::launcher {

struct TwinStep {
  std::vector<Action> actions;  // of `core`
  std::string difference;       // empty: the twin did the same, and its state is the same after it
};
TwinStep StepBesideTwin(Coordinator& core, absl::Duration now, const Event& event);

// All that an action says: its words, and the message that is sent byte for byte.
std::string Exactly(const Action& action);

}  // namespace dsrun::launcher

#endif  // DSRUN_TESTS_LAUNCHER_COORDINATOR_TWIN_H_
