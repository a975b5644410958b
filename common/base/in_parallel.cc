#include "common/base/in_parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread.h"
#include "common/base/usable_processors.h"

namespace dsrun {

absl::Status InParallel(const char* name, size_t items, int threads,
                        const std::function<absl::Status(size_t item, size_t worker)>& work) {
  const size_t workers = std::min(static_cast<size_t>(std::max(threads, 1)), items);
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  struct Failure {
    size_t item = 0;
    absl::Status status;
  };
  std::vector<Failure> failures(std::max<size_t>(workers, 1));
  const auto run = [&](size_t worker) {
    while (!failed) {
      const size_t item = next++;
      if (item >= items) return;
      absl::Status status = work(item, worker);
      if (status.ok()) continue;
      // Every item before it has been begun by somebody, who finishes it.
      failures[worker] = {item, std::move(status)};
      failed = true;
    }
  };
  std::vector<std::thread> others;
  for (size_t worker = 1; worker < workers; ++worker) {
    absl::StatusOr<std::thread> other = StartThread(name, [&run, worker] { run(worker); });
    if (!other.ok()) break;
    others.push_back(*std::move(other));
  }
  run(0);
  for (std::thread& other : others) other.join();
  const Failure* first = nullptr;
  for (const Failure& failure : failures) {
    if (failure.status.ok()) continue;
    if (first == nullptr || failure.item < first->item) first = &failure;
  }
  return first == nullptr ? absl::OkStatus() : first->status;
}

int UsualJobs() { return std::min(UsableProcessors(), kMostUsualJobs); }

}  // namespace dsrun
