// What another thread of this process is doing, for tests that must know that it waits.

#ifndef DSRUN_TESTS_SUPPORT_THREAD_STATE_H_
#define DSRUN_TESTS_SUPPORT_THREAD_STATE_H_

#include <fstream>
#include <string>

namespace dsrun {

// Whether the kernel says that thread `tid` (gettid) sleeps.
inline bool IsAsleep(int tid) {
  std::ifstream file("/proc/self/task/" + std::to_string(tid) + "/stat");
  std::string words;
  std::getline(file, words);
  const size_t name_ends = words.rfind(')');
  return name_ends != std::string::npos && words.substr(name_ends, 3) == ") S";
}

}  // namespace dsrun

#endif  // DSRUN_TESTS_SUPPORT_THREAD_STATE_H_
