// Words about memory that are the same wherever it is found lacking: before a start, before a
// generation, and when memory is refused to ranks that run, or taken from them. Pure.

#ifndef DSRUN_COMMON_PLAN_MEMORY_WORDS_H_
#define DSRUN_COMMON_PLAN_MEMORY_WORDS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/plan/memory_fit.h"
#include "common/plan/planned_buffer.h"

namespace dsrun {

// The largest lines: "gradient_sums 11.6 GiB, parameters 5.8 GiB, optimizer.exp_avg 2.9 GiB".
std::string TopConsumers(std::vector<PlannedBuffer> lines, size_t most = 3);

// What to say of a rank that has met the end of memory while it ran: what its plan is, what takes
// most of that, and the smallest change of each kind that fits. Where it fits by
// plan, or nobody knows what its machine has, the changes are those with which it needs less.
// `question`: as of the generation that runs. REQUIRES: rank < places and atoms.
std::string OutOfMemoryWords(FitInput question, int64_t rank, bool goes_on);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_MEMORY_WORDS_H_
