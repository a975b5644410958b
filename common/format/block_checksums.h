// Checksums by block, so that a part of a shard can be read and verified alone. Every piece is cut
// into blocks from its own start, the last of them shorter; no block holds bytes of two pieces, and
// parts that begin at leaves of a tensor begin at blocks where these are leaves. The CRC-32C of all
// blocks of a file, in the order of its bytes, little-endian, four bytes each, are its *table*,
// which stands behind its data (docs/checkpoint_format.md).
//
// Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_BLOCK_CHECKSUMS_H_
#define DSRUN_COMMON_FORMAT_BLOCK_CHECKSUMS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace dsrun {

inline constexpr int64_t kMostBlockBytes = 4 << 20;
inline constexpr int64_t kLeastBlockBytes = 4 << 10;

// What a block of a shard with these pieces should have: a power of two, the 32nd part of a usual
// piece. A reader with another layout reads a part of a piece, and blocks to its edges: with few
// large blocks that would be a multiple of what it needs.
int64_t BlockBytesFor(std::span<const int64_t> piece_bytes);

inline int64_t BlockCount(int64_t piece_bytes, int64_t block_bytes) {
  return (piece_bytes + block_bytes - 1) / block_bytes;
}

// The table, from the bytes of all pieces one after the other, in parts of any size.
class BlockChecksums {
 public:
  BlockChecksums(std::vector<int64_t> piece_bytes, int64_t block_bytes)
      : piece_bytes_(std::move(piece_bytes)), block_bytes_(block_bytes) {}

  // REQUIRES: no more bytes than the pieces have.
  void Update(std::span<const std::byte> bytes);
  // Of all blocks that are whole by now.
  const std::vector<uint32_t>& sums() const { return sums_; }

 private:
  const std::vector<int64_t> piece_bytes_;
  const int64_t block_bytes_;
  std::vector<uint32_t> sums_;
  size_t piece_ = 0;
  int64_t in_piece_ = 0;
  uint32_t crc32c_ = 0;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_BLOCK_CHECKSUMS_H_
