// GuestList: who has come through a door (door.h) and which connection is whose, by the ticket that
// each was given. The first call of a connection shows its ticket and is told who it is from.
//
// Thread-safe.

#ifndef DSRUN_COMMON_RPC_GUEST_LIST_H_
#define DSRUN_COMMON_RPC_GUEST_LIST_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "common/base/mutex.h"

namespace dsrun {

// Who is at the other end, by the kernel's word.
struct Caller {
  std::string address;  // "127.0.0.1:51234"; of a unix socket "pid 17, uid 1000"
  bool local = false;   // of a unix socket; else pid and uid are not known
  int32_t pid = 0;
  uint32_t uid = 0;
};

struct Guest {
  explicit Guest(Caller who) : caller(std::move(who)) {}
  const Caller caller;
  // Its first message was taken; before that the door's deadline runs.
  std::atomic<bool> settled{false};
};

class GuestList {
 public:
  void Add(const std::string& ticket, std::shared_ptr<Guest> guest) {
    MutexLock lock(mu_);
    guests_[ticket] = std::move(guest);
  }
  // Once for each ticket: one connection, one conversation. Null: there is none.
  std::shared_ptr<Guest> Claim(const std::string& ticket) {
    MutexLock lock(mu_);
    const auto found = guests_.find(ticket);
    if (found == guests_.end()) return nullptr;
    std::shared_ptr<Guest> guest = std::move(found->second);
    guests_.erase(found);
    return guest;
  }
  void Forget(const std::string& ticket) {
    MutexLock lock(mu_);
    guests_.erase(ticket);
  }

 private:
  Mutex mu_;
  std::map<std::string, std::shared_ptr<Guest>> guests_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_GUEST_LIST_H_
