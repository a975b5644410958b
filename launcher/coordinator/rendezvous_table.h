// The named all-gather of one generation: every rank of a group puts one value per name, and when
// the last has put, the table is handed out once. The group is all ranks, or one by its name
// (common/topology/process_group.h); the same name in two groups is two tables. Pure.
//
// The cost is one message per rank in and one per node out, however many ranks there are: nobody
// polls, nobody reads key by key. A repeated put is harmless, the first value counts; a name that
// was answered is closed for the rest of the generation.

#ifndef DSRUN_LAUNCHER_COORDINATOR_RENDEZVOUS_TABLE_H_
#define DSRUN_LAUNCHER_COORDINATOR_RENDEZVOUS_TABLE_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "proto/snapshot.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

class RendezvousTable {
 public:
  // A new generation: everything is forgotten.
  void Reset(int width);

  // Of all ranks: the complete table when this put was the last one missing. REQUIRES: 0 <= rank <
  // width.
  std::optional<proto::ExchangeTable> Put(Rank rank, const std::string& name, std::string value) {
    return Put("", width_, rank, name, std::move(value));
  }
  // Of the group of that name, which has `size` ranks, `rank` among them.
  std::optional<proto::ExchangeTable> Put(const std::string& group, int size, Rank rank,
                                          const std::string& name, std::string value);

  // In this generation, of all ranks.
  bool Answered(const std::string& name) const { return answered_.contains({"", name}); }
  bool HasPut(Rank rank, const std::string& name) const {
    const auto open = open_.find({"", name});
    return Answered(name) || (open != open_.end() && open->second.contains(rank));
  }

  std::string ToString() const;

  // All of it.
  proto::RendezvousState Snapshot() const;
  // DATA_LOSS when it is not of `width` ranks.
  static absl::StatusOr<RendezvousTable> Restore(int width, const proto::RendezvousState& snapshot);

 private:
  using Key = std::pair<std::string, std::string>;  // group and name

  int width_ = 0;
  std::map<Key, std::map<Rank, std::string>> open_;
  std::set<Key> answered_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_RENDEZVOUS_TABLE_H_
