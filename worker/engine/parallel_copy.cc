#include "worker/engine/parallel_copy.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>

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
  try {
    for (size_t i = 1; i < wanted; ++i) others.emplace_back(work);
  } catch (const std::system_error&) {
    // A process limit: those that are there do it.
  }
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace dsrun::worker
