#include "worker/comm/in_process/in_process_communicator.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "worker/comm/core/exchange_errors.h"
#include "worker/comm/core/self_messages.h"

namespace dsrun::worker {
namespace {

// A message that its sender waits with; lives in the sender's Exchange.
struct Message {
  enum class State { kPosted, kCopying, kTaken, kRefused };
  int to;
  const void* data;
  size_t bytes;
  State state = State::kPosted;
  size_t expected = 0;  // by the receiver, when refused
};

struct PendingRecv {
  RecvOp op;
  bool done = false;
};

struct Group {
  explicit Group(int size)
      : size(size),
        gone(static_cast<size_t>(size), false),
        changed(static_cast<size_t>(size)),
        mail(static_cast<size_t>(size) * static_cast<size_t>(size)) {}

  std::deque<Message*>& Mail(int from, int to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return mail[static_cast<size_t>(from) * static_cast<size_t>(size) + static_cast<size_t>(to)];
  }
  bool Gone(int rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return gone[static_cast<size_t>(rank)]; }
  // Wakes `rank`.
  void Notify(int rank) { changed[static_cast<size_t>(rank)].NotifyAll(); }

  const int size;
  Mutex mu;
  std::vector<bool> gone ABSL_GUARDED_BY(mu);
  std::vector<CondVar> changed;  // by rank
  std::vector<std::deque<Message*>> mail ABSL_GUARDED_BY(mu);
};

class InProcessCommunicator : public Communicator {
 public:
  InProcessCommunicator(std::shared_ptr<Group> group, int rank, absl::Duration timeout)
      : group_(std::move(group)), rank_(rank), timeout_(timeout) {}

  ~InProcessCommunicator() override {
    MutexLock lock(group_->mu);
    group_->gone[static_cast<size_t>(rank_)] = true;
    for (int rank = 0; rank < group_->size; ++rank) group_->Notify(rank);
  }

  int rank() const override { return rank_; }
  int size() const override { return group_->size; }

  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override;

  void SetTimeout(absl::Duration timeout) override { timeout_ = timeout; }

  void Abort(const std::string& reason) override {
    MutexLock lock(group_->mu);
    if (error_.ok()) error_ = AbortedError(rank_, reason);
    group_->Notify(rank_);
  }

 private:
  // Takes every message that is there, a peer's in the order of the receives from it. Releases the
  // lock while it copies: what arrived meanwhile from a peer already looked at woke nobody, so it
  // looks again until there was nothing to take.
  void TakeMail(std::vector<PendingRecv>& recvs, const std::string& what)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mu);
  void Take(Message& message, PendingRecv& recv, const std::string& what)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mu);
  // Whether all is done; an error when it cannot be any more.
  absl::StatusOr<bool> Finished(const std::vector<Message>& sends,
                                const std::vector<PendingRecv>& recvs, const std::string& what,
                                SteadyTime deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mu);
  // Takes back what nobody has taken; afterwards no peer reads this rank's buffers.
  void Withdraw(std::vector<Message>& sends) ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mu);
  absl::Status SizeError(int peer, size_t sent, size_t expected, bool we_send,
                         const std::string& what) const;

  const std::shared_ptr<Group> group_;
  const int rank_;
  absl::Duration timeout_;
  absl::Status error_ ABSL_GUARDED_BY(group_->mu);  // the first one
  // A receive that met a message of another size; reported by Finished.
  absl::Status mismatch_ ABSL_GUARDED_BY(group_->mu);
};

absl::Status InProcessCommunicator::Exchange(std::span<const SendOp> sends,
                                             std::span<const RecvOp> recvs,
                                             const std::string& what) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + timeout_;
  std::vector<Message> messages;  // never grows after the first is posted
  for (const SendOp& send : sends) {
    if (send.peer != rank_ && send.bytes > 0) {
      messages.push_back({send.peer, send.data, send.bytes});
    }
  }
  std::vector<PendingRecv> pending;
  for (const RecvOp& recv : recvs) {
    if (recv.peer != rank_ && recv.bytes > 0) pending.push_back({recv});
  }
  CopySelfMessages(rank_, group_->size, sends, recvs, what);

  MutexLock lock(group_->mu);
  if (!error_.ok()) return error_;
  for (Message& message : messages) {
    group_->Mail(rank_, message.to).push_back(&message);
    group_->Notify(message.to);
  }
  while (true) {
    TakeMail(pending, what);
    const absl::StatusOr<bool> finished = Finished(messages, pending, what, deadline);
    if (!finished.ok()) {
      if (error_.ok()) error_ = finished.status();
      Withdraw(messages);
      return error_;
    }
    if (*finished) return absl::OkStatus();
    group_->changed[static_cast<size_t>(rank_)].WaitFor(group_->mu,
                                                        deadline - Clock::Real().SteadyNow());
  }
}

void InProcessCommunicator::TakeMail(std::vector<PendingRecv>& recvs, const std::string& what) {
  bool took = true;
  // Peers with an earlier receive that still waits: what came from them meanwhile is its message.
  std::vector<bool> waits(static_cast<size_t>(group_->size));
  while (took) {
    took = false;
    waits.assign(waits.size(), false);
    for (PendingRecv& recv : recvs) {
      if (recv.done || !error_.ok() || !mismatch_.ok()) continue;
      const auto peer = static_cast<size_t>(recv.op.peer);
      std::deque<Message*>& mail = group_->Mail(recv.op.peer, rank_);
      if (mail.empty() || waits[peer]) {
        waits[peer] = true;
        continue;
      }
      Message& message = *mail.front();
      mail.pop_front();
      Take(message, recv, what);
      took = true;
    }
  }
}

void InProcessCommunicator::Take(Message& message, PendingRecv& recv, const std::string& what) {
  if (message.bytes != recv.op.bytes) {
    message.state = Message::State::kRefused;
    message.expected = recv.op.bytes;
    group_->Notify(recv.op.peer);
    mismatch_ = SizeError(recv.op.peer, message.bytes, recv.op.bytes, /*we_send=*/false, what);
    return;
  }
  message.state = Message::State::kCopying;
  group_->mu.Unlock();
  std::memcpy(recv.op.data, message.data, message.bytes);
  group_->mu.Lock();
  message.state = Message::State::kTaken;
  recv.done = true;
  group_->Notify(recv.op.peer);
}

absl::StatusOr<bool> InProcessCommunicator::Finished(const std::vector<Message>& sends,
                                                     const std::vector<PendingRecv>& recvs,
                                                     const std::string& what, SteadyTime deadline) {
  if (!error_.ok()) return error_;
  if (!mismatch_.ok()) return mismatch_;
  int waits_for = -1;
  bool waits_for_recv = false;
  for (const Message& send : sends) {
    if (send.state == Message::State::kTaken) continue;
    if (send.state == Message::State::kRefused) {
      return SizeError(send.to, send.bytes, send.expected, /*we_send=*/true, what);
    }
    if (group_->Gone(send.to)) return PeerGoneError(rank_, send.to, what, "");
    waits_for = send.to;
  }
  for (const PendingRecv& recv : recvs) {
    if (recv.done) continue;
    if (group_->Gone(recv.op.peer)) return PeerGoneError(rank_, recv.op.peer, what, "");
    waits_for = recv.op.peer;
    waits_for_recv = true;
  }
  if (waits_for < 0) return true;
  if (Clock::Real().SteadyNow() >= deadline) {
    return NoAnswerError(rank_, waits_for, what,
                         waits_for_recv ? "a message from" : "the acceptance of a message by",
                         timeout_);
  }
  return false;
}

void InProcessCommunicator::Withdraw(std::vector<Message>& sends) {
  for (Message& send : sends) {
    std::erase(group_->Mail(rank_, send.to), &send);
    // Ends within one memcpy: the copying thread waits for nothing.
    while (send.state == Message::State::kCopying) {
      group_->changed[static_cast<size_t>(rank_)].Wait(group_->mu);
    }
  }
}

absl::Status InProcessCommunicator::SizeError(int peer, size_t sent, size_t expected, bool we_send,
                                              const std::string& what) const {
  return WithPeerRank(
      absl::FailedPreconditionError(absl::StrCat(
          "rank ", we_send ? rank_ : peer, " sent ", sent, " bytes, but rank ",
          we_send ? peer : rank_, " expected ", expected, " in '", what,
          "'; the two ranks are not at the same operation, turn the communication check on")),
      peer);
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> CreateInProcessGroup(int size,
                                                                const InProcessOptions& options) {
  CHECK_GE(size, 1);
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<InProcessCommunicator>(group, rank, options.timeout));
  }
  return ranks;
}

}  // namespace dsrun::worker
