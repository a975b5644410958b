// SideThread: does what may hang in the kernel, one thing after another, on a thread of its own.
// Thread-safe.

#ifndef DSRUN_AGENT_SIDE_THREAD_H_
#define DSRUN_AGENT_SIDE_THREAD_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/leavable_thread.h"

namespace dsrun::agent {

class SideThread {
 public:
  // Errors: RESOURCE_EXHAUSTED: no thread.
  static absl::StatusOr<std::unique_ptr<SideThread>> Create(const char* name);
  // What has not begun is dropped. What has is waited for, kPatience at most, and then left: it
  // goes on whenever the kernel lets it.
  ~SideThread();

  // `task` owns what it uses, or finds out behind every call that may hang whether it is still
  // there.
  void Do(std::function<void()> task);

  static constexpr absl::Duration kPatience = absl::Seconds(1);

 private:
  struct Shared;

  explicit SideThread(std::shared_ptr<Shared> shared);
  static void Run(const std::shared_ptr<Shared>& shared);

  const std::shared_ptr<Shared> shared_;
  LeavableThread thread_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_SIDE_THREAD_H_
