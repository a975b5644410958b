#include "tests/worker/comm/in_memory_rendezvous.h"

#include "absl/status/status.h"

namespace dsrun::worker {

class InMemoryRendezvousTable::Door : public Rendezvous {
 public:
  Door(InMemoryRendezvousTable& table, int rank) : table_(table), rank_(rank) {}
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& name,
                                                    const std::string& mine) override {
    return table_.Exchange(rank_, name, mine);
  }

 private:
  InMemoryRendezvousTable& table_;
  const int rank_;
};

std::unique_ptr<Rendezvous> InMemoryRendezvousTable::ForRank(int rank) {
  return std::make_unique<Door>(*this, rank);
}

void InMemoryRendezvousTable::Cancel() {
  MutexLock lock(mu_);
  cancelled_ = true;
  changed_.NotifyAll();
}

absl::StatusOr<std::vector<std::string>> InMemoryRendezvousTable::Exchange(
    int rank, const std::string& name, const std::string& mine) {
  MutexLock lock(mu_);
  std::map<int, std::string>& blobs = blobs_[name];
  blobs[rank] = mine;
  changed_.NotifyAll();
  while (!cancelled_ && static_cast<int>(blobs.size()) < size_) changed_.Wait(mu_);
  if (cancelled_) return absl::CancelledError("rendezvous '" + name + "' was cancelled");
  std::vector<std::string> all;
  for (const auto& [_, blob] : blobs) all.push_back(blob);
  return all;
}

}  // namespace dsrun::worker
