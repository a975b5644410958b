// InParallel: the same work on many items, by several threads, in the order of the items.

#ifndef DSRUN_COMMON_BASE_IN_PARALLEL_H_
#define DSRUN_COMMON_BASE_IN_PARALLEL_H_

#include <cstddef>
#include <functional>

#include "absl/status/status.h"

namespace dsrun {

// Calls work(item, worker) once for every item from 0 to `items`, by the calling thread and
// `threads` - 1 others, of which `worker` is the number, from 0: what a worker needs for itself it
// keeps by that. Items are begun in their order, and none after one has failed. Blocks until all
// threads have ended. Where no further thread can be started, fewer do it. `name`: as StartThread.
// Errors: that of the first item that failed; it is the same one whatever the threads do.
absl::Status InParallel(const char* name, size_t items, int threads,
                        const std::function<absl::Status(size_t item, size_t worker)>& work);

// The processors that this process may use, at most 8: more hashing than that waits for the disk.
int UsualJobs();
inline constexpr int kMostUsualJobs = 8;

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_IN_PARALLEL_H_
