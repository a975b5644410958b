#include "worker/comm/core/checked_communicator.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// FNV-1a, 64 bits: the same on all ranks, unlike std::hash or absl::Hash.
uint64_t Hash(uint64_t hash, const void* data, size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ begin[i]) * 0x100000001b3ull;
  return hash;
}
constexpr uint64_t kHashStart = 0xcbf29ce484222325ull;

// All messages one way between two ranks in one operation.
struct Traffic {
  uint64_t bytes = 0;
  uint64_t sizes_hash = kHashStart;  // their sizes, in order

  void Add(uint64_t message_bytes) {
    bytes += message_bytes;
    sizes_hash = Hash(sizes_hash, &message_bytes, sizeof(message_bytes));
  }
  friend bool operator==(const Traffic&, const Traffic&) = default;
};

// What one rank tells another about the operation that it begins. On the wire as it stands in
// memory: the ranks of a job run one program on one kind of machine.
struct Header {
  uint64_t sequence = 0;  // of the operations between these two ranks
  uint64_t name_hash = 0;
  Traffic sends;  // sender of the header to its receiver
  Traffic recvs;  // the other way
  char name[80] = {};
};
static_assert(std::is_trivially_copyable_v<Header> && sizeof(Header) == 128);

std::string Describe(int rank, const Header& header) {
  return absl::StrCat("rank ", rank, " is at operation ", header.sequence, " '",
                      std::string(header.name, strnlen(header.name, sizeof(header.name))), "' ",
                      std::max(header.sends.bytes, header.recvs.bytes), " bytes");
}

class CheckedCommunicator : public Communicator {
 public:
  CheckedCommunicator(std::unique_ptr<Communicator> inner, CheckPolicy policy)
      : inner_(std::move(inner)),
        policy_(policy),
        sequence_(static_cast<size_t>(inner_->size()), 0) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    if (!mismatch_.ok()) return mismatch_;
    RETURN_IF_ERROR(Check(sends, recvs, what));
    return inner_->Exchange(sends, recvs, what);
  }

  void SetTimeout(absl::Duration timeout) override { inner_->SetTimeout(timeout); }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  absl::Status Check(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                     const std::string& what);
  // What we tell each peer that this operation has messages with, and that is still checked.
  std::map<int, Header> Headers(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                                const std::string& what);
  absl::Status Compare(int peer, const Header& mine, const Header& theirs) const;

  const std::unique_ptr<Communicator> inner_;
  const CheckPolicy policy_;
  std::vector<uint64_t> sequence_;  // operations so far, by peer
  absl::Status mismatch_;
};

std::map<int, Header> CheckedCommunicator::Headers(std::span<const SendOp> sends,
                                                   std::span<const RecvOp> recvs,
                                                   const std::string& what) {
  std::map<int, Header> headers;
  for (const SendOp& send : sends) {
    if (send.bytes > 0 && send.peer != rank()) headers[send.peer].sends.Add(send.bytes);
  }
  for (const RecvOp& recv : recvs) {
    if (recv.bytes > 0 && recv.peer != rank()) headers[recv.peer].recvs.Add(recv.bytes);
  }
  for (auto entry = headers.begin(); entry != headers.end();) {
    Header& header = entry->second;
    header.sequence = ++sequence_[static_cast<size_t>(entry->first)];
    header.name_hash = Hash(kHashStart, what.data(), what.size());
    std::memcpy(header.name, what.data(), std::min(what.size(), sizeof(header.name)));
    entry = header.sequence > policy_.first_operations ? headers.erase(entry) : std::next(entry);
  }
  return headers;
}

absl::Status CheckedCommunicator::Check(std::span<const SendOp> sends,
                                        std::span<const RecvOp> recvs, const std::string& what) {
  if (policy_.first_operations == 0) return absl::OkStatus();
  const std::map<int, Header> mine = Headers(sends, recvs, what);
  if (mine.empty()) return absl::OkStatus();
  std::map<int, Header> theirs;
  std::vector<SendOp> header_sends;
  std::vector<RecvOp> header_recvs;
  for (const auto& [peer, header] : mine) {
    header_sends.push_back({peer, &header, sizeof(Header)});
    header_recvs.push_back({peer, &theirs[peer], sizeof(Header)});
  }
  RETURN_IF_ERROR(inner_->Exchange(header_sends, header_recvs, what));
  for (const auto& [peer, header] : mine) {
    mismatch_.Update(Compare(peer, header, theirs[peer]));
  }
  return mismatch_;
}

absl::Status CheckedCommunicator::Compare(int peer, const Header& mine,
                                          const Header& theirs) const {
  const bool same_sizes = mine.sends == theirs.recvs && mine.recvs == theirs.sends;
  if (mine.sequence == theirs.sequence && mine.name_hash == theirs.name_hash && same_sizes) {
    return absl::OkStatus();
  }
  std::string text = absl::StrCat(Describe(peer, theirs), ", but ", Describe(rank(), mine));
  if (!same_sizes) {
    absl::StrAppend(&text, " (", peer, " to ", rank(), ": sends ", theirs.sends.bytes,
                    ", expected ", mine.recvs.bytes, "; ", rank(), " to ", peer, ": sends ",
                    mine.sends.bytes, ", expected ", theirs.recvs.bytes, ")");
  }
  absl::StrAppend(&text, "; all ranks must run the same program with the same settings");
  return WithPeerRank(absl::FailedPreconditionError(text), peer);
}

}  // namespace

std::unique_ptr<Communicator> CreateCheckedCommunicator(std::unique_ptr<Communicator> inner,
                                                        CheckPolicy policy) {
  return std::make_unique<CheckedCommunicator>(std::move(inner), policy);
}

}  // namespace dsrun::worker
