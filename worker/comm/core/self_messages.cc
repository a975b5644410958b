#include "worker/comm/core/self_messages.h"

#include <cstring>

#include "common/base/logging.h"

namespace dsrun::worker {

void CopySelfMessages(int rank, int size, std::span<const SendOp> sends,
                      std::span<const RecvOp> recvs, const std::string& what) {
  const auto is_mine = [&](int peer, size_t bytes) {
    CHECK(peer >= 0 && peer < size) << "'" << what << "' names rank " << peer << " of " << size;
    return peer == rank && bytes > 0;
  };
  size_t next = 0;
  const auto skip_others = [&] {
    while (next < recvs.size() && !is_mine(recvs[next].peer, recvs[next].bytes)) ++next;
  };
  for (const SendOp& send : sends) {
    if (!is_mine(send.peer, send.bytes)) continue;
    skip_others();
    CHECK(next < recvs.size() && recvs[next].bytes == send.bytes)
        << "'" << what << "' sends " << send.bytes << " bytes to its own rank " << rank
        << " but does not receive them";
    if (recvs[next].data != send.data) std::memcpy(recvs[next].data, send.data, send.bytes);
    ++next;
  }
  skip_others();
  CHECK(next == recvs.size()) << "'" << what << "' receives a message from its own rank " << rank
                              << " that it does not send";
}

}  // namespace dsrun::worker
