// A ring of bytes from one process to another, in memory that both have mapped. One writer, one
// reader, no locks: each side owns its position and reads the other's (Lamport, "Concurrent Reading
// and Writing", 1977). Neither side trusts what the other wrote beyond its own bounds: a damaged
// position gives wrong bytes, never an access outside the ring.
//
// Threads: one thread at a time on each side.

#ifndef DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_RING_H_
#define DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_RING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace dsrun::worker {

// Stands in the shared memory; all zero is an empty ring. Positions count bytes since the start.
struct RingPositions {
  alignas(64) std::atomic<uint64_t> written;
  alignas(64) std::atomic<uint64_t> read;
  alignas(64) std::atomic<uint32_t> writer_waits;  // for space
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

class RingWriter {
 public:
  // `capacity` bytes at `data`; both stay the other's as well.
  RingWriter(RingPositions* positions, char* data, size_t capacity)
      : positions_(positions), data_(data), capacity_(capacity) {}

  // Writes as much of it as there is space for; how much that was.
  size_t Write(const void* from, size_t bytes);
  // Asks the reader to say when there is space. False: there is some now.
  bool AskForSpace();

 private:
  size_t Space() const;

  RingPositions* const positions_;
  char* const data_;
  const size_t capacity_;
  uint64_t written_ = 0;
};

class RingReader {
 public:
  RingReader(RingPositions* positions, const char* data, size_t capacity)
      : positions_(positions), data_(data), capacity_(capacity) {}

  // Reads up to `bytes`; how many that were.
  size_t Read(void* to, size_t bytes);
  // Whether the writer has asked for space since the last call, and there is some now.
  bool WriterAsked();

 private:
  RingPositions* const positions_;
  const char* const data_;
  const size_t capacity_;
  uint64_t read_ = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_RING_H_
