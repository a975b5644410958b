#include "worker/engine/parallel_copy.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/thread.h"

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
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < chunks.size(); i = next++) {
      std::memcpy(chunks[i].to, chunks[i].from, chunks[i].bytes);
    }
  };
  std::vector<std::thread> others;
  const size_t wanted = std::min(static_cast<size_t>(std::max(threads, 1)), chunks.size());
  for (size_t i = 1; i < wanted; ++i) {
    absl::StatusOr<std::thread> other = StartThread("a part of the snapshot", work);
    if (!other.ok()) break;  // a process limit: those that are there do it
    others.push_back(*std::move(other));
  }
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace dsrun::worker
