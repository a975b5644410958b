// What the resolver must know about this machine and this start. Gathered once, in main; tests
// write it by hand.

#ifndef DSRUN_LAUNCHER_COMMANDS_MACHINE_H_
#define DSRUN_LAUNCHER_COMMANDS_MACHINE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace dsrun::launcher {

struct Machine {
  std::vector<std::string> environment;  // NAME=VALUE, bytes
  std::string working_dir;               // absolute; empty: it has been removed
  std::string user;                      // who starts the job
  std::string program_dir;               // where dsrun itself lies, absolute
  int cores = 1;                         // that this process may use
  int gpus = 0;
  int64_t memory_available = 0;                    // bytes; 0: unknown, nothing is checked
  int64_t memory_total = 0;                        // bytes
  std::string memory_limited_by = "this machine";  // whose memory_total is: "cgroup /a/b"
  std::string isa = "baseline";                    // "avx512" | "avx2" | "baseline"
  std::string bf16_isa = {};  // of products of bf16: "avx512-bf16", or nothing: the same
  absl::Time now;             // wall time; names the job
  absl::TimeZone zone;
  uint32_t random = 0;  // tells jobs of one second apart
  bool stdout_is_terminal = false;

  // The value of an environment variable, or nullptr.
  const char* Variable(std::string_view name) const;
};

// Reads all of it. Needs no privilege; what cannot be read keeps its default.
Machine ReadMachine(Clock& clock);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_MACHINE_H_
