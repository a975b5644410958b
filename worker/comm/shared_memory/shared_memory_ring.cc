#include "worker/comm/shared_memory/shared_memory_ring.h"

#include <algorithm>
#include <cstring>

namespace dsrun::worker {

size_t RingWriter::Space() const {
  const uint64_t used = written_ - positions_->read.load(std::memory_order_seq_cst);
  return used > capacity_ ? 0 : capacity_ - static_cast<size_t>(used);
}

size_t RingWriter::Write(const void* from, size_t bytes) {
  bytes = std::min(bytes, Space());
  if (bytes == 0) return 0;
  const size_t at = static_cast<size_t>(written_ % capacity_);
  const size_t first = std::min(bytes, capacity_ - at);
  std::memcpy(data_ + at, from, first);
  std::memcpy(data_, static_cast<const char*>(from) + first, bytes - first);
  written_ += bytes;
  positions_->written.store(written_, std::memory_order_release);
  return bytes;
}

// The request and the reader's position are each written before the other is read: one of the two
// sides sees the other's.
bool RingWriter::AskForSpace() {
  positions_->writer_waits.store(1, std::memory_order_seq_cst);
  return Space() == 0;
}

size_t RingReader::Read(void* to, size_t bytes) {
  const uint64_t available = positions_->written.load(std::memory_order_acquire) - read_;
  bytes = std::min({bytes, static_cast<size_t>(available), capacity_});
  if (bytes == 0) return 0;
  const size_t at = static_cast<size_t>(read_ % capacity_);
  const size_t first = std::min(bytes, capacity_ - at);
  std::memcpy(to, data_ + at, first);
  std::memcpy(static_cast<char*>(to) + first, data_, bytes - first);
  read_ += bytes;
  positions_->read.store(read_, std::memory_order_seq_cst);
  return bytes;
}

bool RingReader::WriterAsked() {
  return positions_->writer_waits.load(std::memory_order_seq_cst) != 0 &&
         positions_->writer_waits.exchange(0, std::memory_order_seq_cst) != 0;
}

}  // namespace dsrun::worker
