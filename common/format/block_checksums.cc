#include "common/format/block_checksums.h"

#include <algorithm>
#include <bit>

#include "common/base/crc32c.h"

namespace dsrun {

int64_t BlockBytesFor(std::span<const int64_t> piece_bytes) {
  int64_t bytes = 0;
  for (const int64_t size : piece_bytes) bytes += size;
  const auto pieces = static_cast<int64_t>(std::max<size_t>(piece_bytes.size(), 1));
  const auto usual = static_cast<uint64_t>(bytes / pieces / 32);
  return std::clamp(static_cast<int64_t>(std::bit_floor(usual)), kLeastBlockBytes, kMostBlockBytes);
}

void BlockChecksums::Update(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const int64_t size = piece_bytes_[piece_];
    const int64_t left = std::min(block_bytes_ - in_piece_ % block_bytes_, size - in_piece_);
    const auto part = bytes.first(std::min(bytes.size(), static_cast<size_t>(left)));
    crc32c_ = ExtendCrc32c(crc32c_, part);
    in_piece_ += static_cast<int64_t>(part.size());
    bytes = bytes.subspan(part.size());
    if (in_piece_ % block_bytes_ == 0 || in_piece_ == size) {
      sums_.push_back(crc32c_);
      crc32c_ = 0;
    }
    if (in_piece_ == size) {
      in_piece_ = 0;
      ++piece_;
    }
  }
}

}  // namespace dsrun
