#include "worker/comm/shared_memory/shared_memory_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// Small enough that a reader that is awake follows while the rest is written.
constexpr size_t kPieceBytes = 128 << 10;

}  // namespace

SharedMemoryLink::SharedMemoryLink(int rank, int peer, SharedInbox& own,
                                   std::unique_ptr<SharedInbox> inbox)
    : rank_(rank),
      peer_(peer),
      inbox_(std::move(inbox)),
      out_(inbox_->WriterOf(rank)),
      in_(own.ReaderOf(peer)) {}

void SharedMemoryLink::Clear() {
  sends_.clear();
  recvs_.clear();
  next_send_ = next_recv_ = 0;
}

absl::StatusOr<bool> SharedMemoryLink::Move(const std::string& what) {
  const bool out = MoveOut();
  ASSIGN_OR_RETURN(const bool in, MoveIn(what));
  const bool space_was_asked_for = in && in_.WriterAsked();
  // A sleeping peer is woken once for all there is, not for each piece.
  const bool stalled = unannounced_ && (next_send_ == sends_.size() || !out);
  if (space_was_asked_for || stalled) {
    unannounced_ = false;
    inbox_->Ring();
  }
  return out || in;
}

bool SharedMemoryLink::MoveOut() {
  size_t budget = kPieceBytes;
  bool moved = false;
  while (next_send_ < sends_.size() && budget > 0) {
    const SendOp& send = sends_[next_send_];
    if (sent_header_ == 0) out_header_ = {sends_ever_, send.bytes};
    size_t wrote = out_.Write(reinterpret_cast<const char*>(&out_header_) + sent_header_,
                              sizeof(Header) - sent_header_);
    moved = moved || wrote > 0;
    sent_header_ += wrote;
    wrote = 0;
    if (sent_header_ == sizeof(Header)) {
      wrote = out_.Write(static_cast<const char*>(send.data) + sent_,
                         std::min(budget, send.bytes - sent_));
    }
    moved = moved || wrote > 0;
    sent_ += wrote;
    budget -= wrote;
    if (sent_ == send.bytes) {
      ++next_send_;
      ++sends_ever_;
      sent_header_ = sent_ = 0;
    } else if (wrote == 0 && out_.AskForSpace()) {
      break;
    }
  }
  unannounced_ = unannounced_ || moved;
  return moved;
}

absl::StatusOr<bool> SharedMemoryLink::MoveIn(const std::string& what) {
  size_t budget = kPieceBytes;
  while (next_recv_ < recvs_.size() && budget > 0) {
    const RecvOp& recv = recvs_[next_recv_];
    received_header_ += in_.Read(reinterpret_cast<char*>(&in_header_) + received_header_,
                                 sizeof(Header) - received_header_);
    if (received_header_ < sizeof(Header)) break;
    if (in_header_.number != recvs_ever_ || in_header_.bytes != recv.bytes) {
      return WithPeerRank(absl::FailedPreconditionError(absl::StrCat(
                              "'", what, "': rank ", rank_, " waits for message ", recvs_ever_,
                              " of rank ", peer_, " with ", recv.bytes, " bytes, but got message ",
                              in_header_.number, " with ", in_header_.bytes,
                              " bytes: the two ranks are not doing the same; run with "
                              "--check-collectives always to see what each does")),
                          peer_);
    }
    const size_t read = in_.Read(static_cast<char*>(recv.data) + received_,
                                 std::min(budget, recv.bytes - received_));
    received_ += read;
    budget -= read;
    if (received_ == recv.bytes) {
      ++next_recv_;
      ++recvs_ever_;
      received_header_ = received_ = 0;
    } else if (read == 0) {
      break;
    }
  }
  return budget < kPieceBytes;
}

}  // namespace dsrun::worker
