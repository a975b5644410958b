// Lists that are there for the arithmetic need not all be walked again where a step of the engine
// takes ten times as long and something else is looked for: races under the thread sanitizer,
// missing waits on a LazyDevice (which says so by DSRUN_SHORT_LISTS).

#ifndef DSRUN_TESTS_SUPPORT_SHORT_LISTS_H_
#define DSRUN_TESTS_SUPPORT_SHORT_LISTS_H_

#include <cstdlib>
#include <vector>

namespace dsrun {

#ifdef __SANITIZE_THREAD__
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

inline bool ListsAreShort() {
  return kThreadSanitizer || std::getenv("DSRUN_SHORT_LISTS") != nullptr;
}

// All of them, or the last alone.
inline std::vector<int> AllOrLast(std::vector<int> all) {
  if (ListsAreShort()) all.erase(all.begin(), all.end() - 1);
  return all;
}

}  // namespace dsrun

#endif  // DSRUN_TESTS_SUPPORT_SHORT_LISTS_H_
