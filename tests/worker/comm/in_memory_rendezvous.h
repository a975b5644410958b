// A Rendezvous for ranks that are threads of one process.

#ifndef DSRUN_TESTS_WORKER_COMM_IN_MEMORY_RENDEZVOUS_H_
#define DSRUN_TESTS_WORKER_COMM_IN_MEMORY_RENDEZVOUS_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "worker/comm/core/rendezvous.h"

namespace dsrun::worker {

// Shared by all ranks of one generation. Thread-safe.
class InMemoryRendezvousTable {
 public:
  explicit InMemoryRendezvousTable(int size) : size_(size) {}

  // Rank `rank`'s door to the table, which must outlive it.
  std::unique_ptr<Rendezvous> ForRank(int rank);
  // Ends all waiting and later exchanges with CANCELLED.
  void Cancel();

 private:
  class Door;
  absl::StatusOr<std::vector<std::string>> Exchange(int rank, const std::string& name,
                                                    const std::string& mine);

  const int size_;
  Mutex mu_;
  CondVar changed_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  std::map<std::string, std::map<int, std::string>> blobs_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_COMM_IN_MEMORY_RENDEZVOUS_H_
