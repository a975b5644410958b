// When to do what looks at all of a core: its invariants, its digest. Pure.
//
// In a large job every rank sends an event, and to look at every rank after each of them costs
// their number squared: seconds at 32,000, in which nobody hears from the coordinator. So it is
// done
//   - after every event, while there is little to look at (kThingsAnEvent);
//   - else at every milestone (another state, plan or membership), and between two of them after so
//     many events that on the average an event pays for kThingsAnEvent.
// An invariant that breaks stays broken, and a replay that goes another way does not come back:
// both are found, by the next milestone at the latest, only not at the very event. Tests and
// simulated clusters look after every step.
//
// Copyable; not thread-safe.

#ifndef DSRUN_LAUNCHER_COORDINATOR_CORE_SAMPLING_H_
#define DSRUN_LAUNCHER_COORDINATOR_CORE_SAMPLING_H_

#include <cstddef>
#include <variant>

#include "absl/status/status.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/events.h"

namespace dsrun::launcher {

class CoreSampling {
 public:
  static constexpr size_t kThingsAnEvent = 64;

  // Of `core` as it is after an event; asked once an event.
  bool Due(const Coordinator& core) {
    ++events_;
    const Coordinator::Milestone milestone = core.milestone();
    if (milestone == last_ && events_ * kThingsAnEvent < core.Size()) return false;
    last_ = milestone;
    events_ = 0;
    return true;
  }

 private:
  Coordinator::Milestone last_;
  size_t events_ = 0;
};

// CheckInvariants after every event that may break one, sampled. What is not durable changes
// nothing that they speak of, by the definition of IsDurable and by CellTest; that is believed of
// large jobs, between two ticks.
class SampledInvariants {
 public:
  absl::Status After(const Event& event, const Coordinator& core) {
    const bool is_small = core.Size() <= CoreSampling::kThingsAnEvent;
    const bool counts = is_small || std::holds_alternative<Tick>(event) || IsDurable(event);
    return counts && sampling_.Due(core) ? core.CheckInvariants() : absl::OkStatus();
  }

 private:
  CoreSampling sampling_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_CORE_SAMPLING_H_
