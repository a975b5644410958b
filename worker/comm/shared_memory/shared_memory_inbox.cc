#include "worker/comm/shared_memory/shared_memory_inbox.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

constexpr size_t kPage = 4096;
// Nobody makes the memory smaller or larger, and nobody lifts that.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

size_t RoundUp(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

size_t DataOffset(int ranks) {
  return kPage + RoundUp(static_cast<size_t>(ranks) * sizeof(RingPositions));
}

size_t TotalBytes(int ranks, size_t ring_bytes) {
  return DataOffset(ranks) + static_cast<size_t>(ranks) * ring_bytes;
}

// Closes on every way out.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
  int Release() {
    const int released = fd;
    fd = -1;
    return released;
  }
};

absl::Status Failed(const std::string& what) {
  const int error = errno;
  const std::string words = absl::StrCat("shared memory: ", what, ": ", std::strerror(error));
  const std::string limit = BecauseOfLimit(error);
  if (limit.empty()) return absl::UnavailableError(words);
  return absl::ResourceExhaustedError(absl::StrCat(words, limit));
}

}  // namespace

struct SharedInbox::Header {
  std::array<unsigned char, 16> word;
  alignas(64) std::atomic<uint32_t> rings;
  std::atomic<uint32_t> sleeping;
  alignas(64) std::atomic<int32_t> end;  // 0: none; 1: because of nobody; 2 + rank
};

SharedInbox::SharedInbox(int fd, int pidfd, void* memory, size_t bytes, int ranks,
                         size_t ring_bytes)
    : fd_(fd),
      pidfd_(pidfd),
      memory_(static_cast<char*>(memory)),
      bytes_(bytes),
      ranks_(ranks),
      ring_bytes_(ring_bytes),
      header_(reinterpret_cast<Header*>(memory)) {}

SharedInbox::~SharedInbox() {
  munmap(memory_, bytes_);
  CloseDescriptor();
  if (pidfd_ >= 0) close(pidfd_);
}

void SharedInbox::CloseDescriptor() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::StatusOr<std::unique_ptr<SharedInbox>> SharedInbox::Map(int fd, int pidfd, int ranks,
                                                              size_t ring_bytes) {
  static_assert(sizeof(Header) <= kPage);
  Descriptor file{fd};
  Descriptor owner{pidfd};
  const size_t bytes = TotalBytes(ranks, ring_bytes);
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return Failed("cannot be mapped");
  return std::unique_ptr<SharedInbox>(
      new SharedInbox(file.Release(), owner.Release(), memory, bytes, ranks, ring_bytes));
}

absl::StatusOr<std::unique_ptr<SharedInbox>> SharedInbox::Create(int ranks, size_t ring_bytes) {
  Descriptor file{memfd_create("dsrun-inbox", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (file.fd < 0) return Failed("memfd_create");
  if (ftruncate(file.fd, static_cast<off_t>(TotalBytes(ranks, ring_bytes))) != 0) {
    return Failed("ftruncate");
  }
  if (fcntl(file.fd, F_ADD_SEALS, kSeals) != 0) return Failed("cannot be sealed");
  ASSIGN_OR_RETURN(std::unique_ptr<SharedInbox> inbox, Map(file.Release(), -1, ranks, ring_bytes));
  auto& word = inbox->header_->word;
  if (getrandom(word.data(), word.size(), 0) != static_cast<ssize_t>(word.size())) {
    return Failed("getrandom");
  }
  return inbox;
}

absl::StatusOr<std::unique_ptr<SharedInbox>> SharedInbox::Open(const InboxAddress& address,
                                                               int ranks, size_t ring_bytes) {
  const std::string path = absl::StrCat("/proc/", address.pid, "/fd/", address.fd);
  Descriptor owner{static_cast<int>(syscall(SYS_pidfd_open, address.pid, 0))};
  if (owner.fd < 0) return Failed(absl::StrCat("pidfd_open of ", address.pid));
  Descriptor file{open(path.c_str(), O_RDWR | O_CLOEXEC)};
  if (file.fd < 0) return Failed(path);
  struct stat seen = {};
  // Unsealed, a peer could truncate it under our hands.
  if (fstat(file.fd, &seen) != 0 || (fcntl(file.fd, F_GET_SEALS) & kSeals) != kSeals ||
      seen.st_size != static_cast<off_t>(TotalBytes(ranks, ring_bytes))) {
    return absl::UnavailableError(absl::StrCat("shared memory: ", path, " is no inbox of ours"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<SharedInbox> inbox,
                   Map(file.Release(), owner.Release(), ranks, ring_bytes));
  if (inbox->header_->word != address.word) {
    return absl::UnavailableError(absl::StrCat("shared memory: ", path, " is another inbox"));
  }
  inbox->CloseDescriptor();
  return inbox;
}

InboxAddress SharedInbox::address() const { return {getpid(), fd_, header_->word}; }

RingPositions* SharedInbox::Positions(int rank) {
  return reinterpret_cast<RingPositions*>(memory_ + kPage) + rank;
}

char* SharedInbox::Data(int rank) {
  return memory_ + DataOffset(ranks_) + static_cast<size_t>(rank) * ring_bytes_;
}

// The count is raised before `sleeping` is read, and `sleeping` is written before the kernel
// compares the count: either the sleeper does not fall asleep or it is woken.
void SharedInbox::Ring() {
  header_->rings.fetch_add(1, std::memory_order_seq_cst);
  if (header_->sleeping.load(std::memory_order_seq_cst) == 0) return;
  syscall(SYS_futex, &header_->rings, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

uint32_t SharedInbox::Rings() const { return header_->rings.load(std::memory_order_seq_cst); }

void SharedInbox::Wait(uint32_t rings, absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration()) return;
  const timespec relative = absl::ToTimespec(timeout);
  header_->sleeping.store(1, std::memory_order_seq_cst);
  syscall(SYS_futex, &header_->rings, FUTEX_WAIT, rings, &relative, nullptr, 0);
  header_->sleeping.store(0, std::memory_order_seq_cst);
}

void SharedInbox::SetEnded(int because_of) {
  int32_t none = 0;
  header_->end.compare_exchange_strong(none, because_of < 0 ? 1 : 2 + because_of);
}

bool SharedInbox::ended() const { return header_->end.load() != 0; }

int SharedInbox::ended_because_of() const {
  const int32_t end = header_->end.load();
  return end >= 2 && end < 2 + ranks_ ? end - 2 : -1;
}

bool SharedInbox::OwnerIsDead() const {
  pollfd owner{pidfd_, POLLIN, 0};
  return pidfd_ >= 0 && poll(&owner, 1, 0) == 1;
}

}  // namespace dsrun::worker
