#include "worker/engine/parallel_copy.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "common/base/in_parallel.h"

namespace dsrun::worker {
namespace {

// Large enough that taking the next one costs nothing, small enough that all end together.
constexpr size_t kChunkBytes = size_t{4} << 20;

}  // namespace

void CopyInParallel(const std::vector<CopyPiece>& pieces, int threads) {
  std::vector<CopyPiece> chunks;
  for (const CopyPiece& piece : pieces) {
    for (size_t done = 0; done < piece.bytes; done += kChunkBytes) {
      chunks.push_back({static_cast<char*>(piece.to) + done,
                        static_cast<const char*>(piece.from) + done,
                        std::min(kChunkBytes, piece.bytes - done)});
    }
  }
  InParallel("a part of the snapshot", chunks.size(), threads, [&](size_t chunk, size_t) {
    std::memcpy(chunks[chunk].to, chunks[chunk].from, chunks[chunk].bytes);
    return absl::OkStatus();
  }).IgnoreError();  // a copy has none
}

}  // namespace dsrun::worker
