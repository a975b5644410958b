// Time, luck and order of a simulated cluster: one thread, one queue, one seed. The same seed gives
// the same run, event for event.

#ifndef DSRUN_TESTS_SIMULATION_SIM_BASE_H_
#define DSRUN_TESTS_SIMULATION_SIM_BASE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "absl/time/time.h"

namespace dsrun::simulation {

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15u + b + 0x7f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed, 1)) {}
  uint64_t Next() { return Mix(state_ += 0x9e3779b97f4a7c15u, 0); }
  // [0, n)
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }
  bool Chance(double p) { return static_cast<double>(Next() >> 11) * 0x1p-53 < p; }
  absl::Duration Millis(int64_t low, int64_t high) {
    return absl::Microseconds(Between(low * 1000, high * 1000));
  }

 private:
  uint64_t state_;
};

class SimQueue {
 public:
  absl::Duration now() const { return now_; }
  void At(absl::Duration when, std::function<void()> what) {
    queue_.emplace(std::pair(when < now_ ? now_ : when, ++sequence_), std::move(what));
  }
  void After(absl::Duration delay, std::function<void()> what) {
    At(now_ + delay, std::move(what));
  }
  bool RunNext() {
    if (queue_.empty()) return false;
    auto first = queue_.extract(queue_.begin());
    now_ = first.key().first;
    ++steps_;
    first.mapped()();
    return true;
  }
  uint64_t steps() const { return steps_; }

 private:
  absl::Duration now_;
  uint64_t sequence_ = 0;
  uint64_t steps_ = 0;
  std::map<std::pair<absl::Duration, uint64_t>, std::function<void()>> queue_;
};

}  // namespace dsrun::simulation

#endif  // DSRUN_TESTS_SIMULATION_SIM_BASE_H_
