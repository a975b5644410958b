#include "worker/comm/core/collectives.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {

absl::StatusOr<std::vector<std::string>> AllGather(Communicator& comm, const std::string& mine,
                                                   const std::string& what) {
  const auto size = static_cast<size_t>(comm.size());
  const auto self = static_cast<size_t>(comm.rank());
  std::vector<uint64_t> sizes(size, 0);
  const uint64_t my_size = mine.size();
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (size_t peer = 0; peer < size; ++peer) {
    sends.push_back({static_cast<int>(peer), &my_size, sizeof(my_size)});
    recvs.push_back({static_cast<int>(peer), &sizes[peer], sizeof(my_size)});
  }
  RETURN_IF_ERROR(comm.Exchange(sends, recvs, what + " (sizes)"));

  std::vector<std::string> all(size);
  sends.clear();
  recvs.clear();
  for (size_t peer = 0; peer < size; ++peer) {
    if (peer == self) continue;
    all[peer].resize(sizes[peer]);
    sends.push_back({static_cast<int>(peer), mine.data(), mine.size()});
    recvs.push_back({static_cast<int>(peer), all[peer].data(), all[peer].size()});
  }
  all[self] = mine;
  RETURN_IF_ERROR(comm.Exchange(sends, recvs, what));
  return all;
}

absl::Status AllGatherBlocks(Communicator& comm, const void* mine, size_t bytes, void* all,
                             const std::string& what) {
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (int peer = 0; peer < comm.size(); ++peer) {
    sends.push_back({peer, mine, bytes});
    recvs.push_back({peer, static_cast<char*>(all) + static_cast<size_t>(peer) * bytes, bytes});
  }
  return comm.Exchange(sends, recvs, what);
}

absl::Status AllGatherRanges(Communicator& comm,
                             const std::vector<std::vector<Range>>& owned_by_rank, float* base,
                             const std::string& what) {
  return AllGatherRanges(comm, owned_by_rank, base, sizeof(float), what);
}

absl::Status AllGatherRanges(Communicator& comm,
                             const std::vector<std::vector<Range>>& owned_by_rank, void* base,
                             int64_t element_bytes, const std::string& what) {
  if (static_cast<int64_t>(owned_by_rank.size()) != comm.size()) {
    return absl::InvalidArgumentError(absl::StrCat("'", what, "': the owner map is for ",
                                                   owned_by_rank.size(),
                                                   " ranks, the communicator has ", comm.size()));
  }
  const auto at = [&](Range range) {
    return static_cast<char*>(base) + range.begin * element_bytes;
  };
  const auto bytes = [&](Range range) { return static_cast<size_t>(range.size() * element_bytes); };
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (int peer = 0; peer < comm.size(); ++peer) {
    if (peer == comm.rank()) continue;
    for (const Range& range : owned_by_rank[static_cast<size_t>(comm.rank())]) {
      sends.push_back({peer, at(range), bytes(range)});
    }
    for (const Range& range : owned_by_rank[static_cast<size_t>(peer)]) {
      recvs.push_back({peer, at(range), bytes(range)});
    }
  }
  return comm.Exchange(sends, recvs, what);
}

absl::StatusOr<std::string> Broadcast(Communicator& comm, int root, const std::string& mine,
                                      const std::string& what) {
  CHECK(root >= 0 && root < comm.size()) << "root " << root << " of " << comm.size() << " ranks";
  std::vector<SendOp> sends;
  uint64_t bytes = mine.size();
  if (comm.rank() == root) {
    std::vector<SendOp> size_sends;
    for (int peer = 0; peer < comm.size(); ++peer) {
      if (peer == root) continue;
      size_sends.push_back({peer, &bytes, sizeof(bytes)});
      sends.push_back({peer, mine.data(), mine.size()});
    }
    RETURN_IF_ERROR(comm.Exchange(size_sends, {}, what + " (size)"));
    RETURN_IF_ERROR(comm.Exchange(sends, {}, what));
    return mine;
  }
  const RecvOp size_recv{root, &bytes, sizeof(bytes)};
  RETURN_IF_ERROR(comm.Exchange({}, std::span(&size_recv, 1), what + " (size)"));
  std::string result(bytes, '\0');
  const RecvOp recv{root, result.data(), result.size()};
  RETURN_IF_ERROR(comm.Exchange({}, std::span(&recv, 1), what));
  return result;
}

}  // namespace dsrun::worker
