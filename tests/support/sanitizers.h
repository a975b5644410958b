// Which sanitizer this is compiled for. Under one a step of the engine takes five to twenty times
// as long, and lists that are there for the arithmetic need not all be walked again for races.

#ifndef DSRUN_TESTS_SUPPORT_SANITIZERS_H_
#define DSRUN_TESTS_SUPPORT_SANITIZERS_H_

#include <vector>

namespace dsrun {

#ifdef __SANITIZE_THREAD__
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// All of them, or the last alone where only races are looked for.
inline std::vector<int> AllOrLastForRaces(std::vector<int> all) {
  if (kThreadSanitizer) all.erase(all.begin(), all.end() - 1);
  return all;
}

}  // namespace dsrun

#endif  // DSRUN_TESTS_SUPPORT_SANITIZERS_H_
