#include "worker/comm/shared_memory/shared_memory_communicator.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "worker/comm/core/exchange_errors.h"
#include "worker/comm/core/self_messages.h"
#include "worker/comm/shared_memory/shared_memory_inbox.h"
#include "worker/comm/shared_memory/shared_memory_link.h"

namespace dsrun::worker {
namespace {

// How soon a death is noticed; a peer that leaves in order rings.
constexpr absl::Duration kLookForDeaths = absl::Milliseconds(20);

class SharedMemoryRank : public Communicator {
 public:
  SharedMemoryRank(int rank, int size, std::unique_ptr<Communicator> inner, absl::Duration timeout,
                   std::unique_ptr<SharedInbox> inbox,
                   std::vector<std::unique_ptr<SharedMemoryLink>> links)
      : rank_(rank),
        inner_(std::move(inner)),
        timeout_(timeout),
        inbox_(std::move(inbox)),
        link_of_(static_cast<size_t>(size), nullptr),
        links_(std::move(links)) {
    for (const auto& link : links_) link_of_[static_cast<size_t>(link->peer())] = link.get();
  }
  ~SharedMemoryRank() override { End(-1); }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(link_of_.size()); }
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override;
  void SetTimeout(absl::Duration timeout) override { timeout_ = timeout; }
  void Abort(const std::string& reason) override {
    Fail(AbortedError(rank(), reason)).IgnoreError();
    if (inner_ != nullptr) inner_->Abort(reason);
  }

 private:
  // Hands the node's messages to the links; the others to `far_sends` and `far_recvs`.
  void Sort(std::span<const SendOp> sends, std::span<const RecvOp> recvs);
  absl::Status ExchangeOnNode(const std::string& what, SteadyTime deadline);
  // One pass over the links; whether anything moved, and whether all are done.
  absl::StatusOr<bool> MoveAll(const std::string& what, bool* done);
  // OK unless a peer that is waited for is gone.
  absl::Status LookForGone(const std::string& what);
  absl::Status NoAnswer(const std::string& what) const;
  // The rank at the end of "gone because of", from `peer`.
  int Culprit(int peer) const;

  absl::Status error() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    return error_;
  }
  // Records the first error, tells the node, wakes the waiter; returns the first error.
  absl::Status Fail(absl::Status error) ABSL_LOCKS_EXCLUDED(mu_);
  void End(int because_of);

  const int rank_;
  const std::unique_ptr<Communicator> inner_;  // null: every rank of the group is on this node
  absl::Duration timeout_;                     // of one Exchange
  const std::unique_ptr<SharedInbox> inbox_;
  std::vector<SharedMemoryLink*> link_of_;  // by rank; null: not on this node
  const std::vector<std::unique_ptr<SharedMemoryLink>> links_;
  std::vector<SendOp> far_sends_;  // of the running Exchange
  std::vector<RecvOp> far_recvs_;

  std::atomic<bool> failed_ = false;  // error_ is set
  Mutex mu_;
  absl::Status error_ ABSL_GUARDED_BY(mu_);
};

absl::Status SharedMemoryRank::Exchange(std::span<const SendOp> sends,
                                        std::span<const RecvOp> recvs, const std::string& what) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + timeout_;
  CopySelfMessages(rank(), size(), sends, recvs, what);
  if (failed_) return error();
  Sort(sends, recvs);
  if (const absl::Status near = ExchangeOnNode(what, deadline); !near.ok()) return Fail(near);
  if (far_sends_.empty() && far_recvs_.empty()) return absl::OkStatus();
  inner_->SetTimeout(std::max(deadline - Clock::Real().SteadyNow(), absl::Milliseconds(1)));
  const absl::Status far = inner_->Exchange(far_sends_, far_recvs_, what);
  return far.ok() ? far : Fail(far);
}

void SharedMemoryRank::Sort(std::span<const SendOp> sends, std::span<const RecvOp> recvs) {
  far_sends_.clear();
  far_recvs_.clear();
  for (const auto& link : links_) link->Clear();
  const auto sort = [this](const auto& op, auto& far) {
    if (op.bytes == 0 || op.peer == rank()) return;
    SharedMemoryLink* const link = link_of_[static_cast<size_t>(op.peer)];
    if (link != nullptr) {
      link->Add(op);
    } else {
      far.push_back(op);
    }
  };
  for (const SendOp& send : sends) sort(send, far_sends_);
  for (const RecvOp& recv : recvs) sort(recv, far_recvs_);
}

absl::Status SharedMemoryRank::ExchangeOnNode(const std::string& what, SteadyTime deadline) {
  absl::Status gone;  // seen before the last pass: what the peer left behind has been read
  while (true) {
    const uint32_t rings = inbox_->Rings();
    bool done = true;
    ASSIGN_OR_RETURN(const bool moved, MoveAll(what, &done));
    if (done) return absl::OkStatus();
    if (failed_) return error();
    if (moved) continue;
    RETURN_IF_ERROR(gone);
    gone = LookForGone(what);
    if (!gone.ok()) continue;
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return NoAnswer(what);
    inbox_->Wait(rings, std::min(left, kLookForDeaths));
  }
}

absl::StatusOr<bool> SharedMemoryRank::MoveAll(const std::string& what, bool* done) {
  bool moved = false;
  for (const auto& link : links_) {
    if (link->done()) continue;
    ASSIGN_OR_RETURN(const bool one, link->Move(what));
    moved = moved || one;
    *done = *done && link->done();
  }
  return moved;
}

absl::Status SharedMemoryRank::LookForGone(const std::string& what) {
  for (const auto& link : links_) {
    if (link->done()) continue;
    if (link->inbox().OwnerIsDead()) {
      return PeerGoneError(rank(), link->peer(), what, "its process has ended");
    }
    if (!link->inbox().ended()) continue;
    const int culprit = Culprit(link->peer());
    return PeerGoneError(rank(), culprit, what,
                         culprit == link->peer()
                             ? "it has left this generation"
                             : absl::StrCat("rank ", link->peer(), " has said so"));
  }
  return absl::OkStatus();
}

int SharedMemoryRank::Culprit(int peer) const {
  for (int hops = 0; hops < size(); ++hops) {
    SharedMemoryLink* const link = link_of_[static_cast<size_t>(peer)];
    if (link == nullptr || !link->inbox().ended()) break;
    const int next = link->inbox().ended_because_of();
    if (next < 0 || next == rank()) break;
    peer = next;
  }
  return peer;
}

absl::Status SharedMemoryRank::NoAnswer(const std::string& what) const {
  for (const auto& link : links_) {
    if (link->done()) continue;
    return NoAnswerError(rank(), link->peer(), what,
                         link->receiving() ? "a message from" : "the acceptance of a message by",
                         timeout_);
  }
  return absl::InternalError("no link waits");
}

absl::Status SharedMemoryRank::Fail(absl::Status error) {
  absl::Status first;
  {
    MutexLock lock(mu_);
    if (error_.ok()) error_ = std::move(error);
    first = error_;
  }
  failed_ = true;
  End(PeerRank(first));
  inbox_->Ring();
  return first;
}

void SharedMemoryRank::End(int because_of) {
  inbox_->SetEnded(because_of);
  for (const auto& link : links_) link->inbox().Ring();
}

// --- Create

// What a rank says about itself: "<kernel> <process table> <pid> <fd> <word> <node>".
struct Place {
  std::string machine;  // kernel and process table; empty: shares nothing
  std::string node;
  InboxAddress inbox;
};

std::string FirstWord(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

std::string LinkTarget(const char* path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path, target, sizeof(target));
  return length <= 0 ? "" : std::string(target, static_cast<size_t>(length));
}

std::string Encode(const SharedInbox* inbox, const std::string& node) {
  const std::string kernel = FirstWord("/proc/sys/kernel/random/boot_id");
  const std::string processes = LinkTarget("/proc/self/ns/pid");
  if (inbox == nullptr || kernel.empty() || processes.empty()) return "none";
  const InboxAddress address = inbox->address();
  const std::string word(reinterpret_cast<const char*>(address.word.data()), address.word.size());
  return absl::StrCat(kernel, " ", processes, " ", address.pid, " ", address.fd, " ",
                      absl::BytesToHexString(word), " ", node);
}

absl::StatusOr<Place> Decode(const std::string& blob) {
  if (blob == "none") return Place{};
  const std::vector<std::string> words = absl::StrSplit(blob, absl::MaxSplits(' ', 5));
  Place place;
  std::string word;
  if (words.size() == 6 && words[4].size() == 2 * place.inbox.word.size()) {
    word = absl::HexStringToBytes(words[4]);
  }
  if (word.empty() || !absl::SimpleAtoi(words[2], &place.inbox.pid) ||
      !absl::SimpleAtoi(words[3], &place.inbox.fd)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the rendezvous gave '", absl::CHexEscape(blob),
                     "' as the place of a rank's shared memory; coordinator and worker disagree"));
  }
  std::copy(word.begin(), word.end(), place.inbox.word.begin());
  place.machine = words[0] + " " + words[1];
  place.node = words[5];
  return place;
}

absl::Status ExpectRanks(size_t got, int expected, const std::string& group) {
  if (got == static_cast<size_t>(expected)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the rendezvous of group '", group, "' has ", got, " ranks, expected ", expected,
                   "; coordinator and worker disagree about the generation"));
}

using Inboxes = std::vector<std::unique_ptr<SharedInbox>>;

// The inboxes of the other ranks of this node, by rank; null where there is none, or none that this
// process may use.
absl::StatusOr<Inboxes> OpenInboxes(int rank, const std::vector<std::string>& blobs,
                                    size_t ring_bytes) {
  const int size = static_cast<int>(blobs.size());
  Inboxes inboxes(blobs.size());
  ASSIGN_OR_RETURN(const Place own, Decode(blobs[static_cast<size_t>(rank)]));
  for (int peer = 0; peer < size; ++peer) {
    ASSIGN_OR_RETURN(const Place place, Decode(blobs[static_cast<size_t>(peer)]));
    const bool near = peer != rank && !own.machine.empty() && place.machine == own.machine &&
                      place.node == own.node;
    if (!near) continue;
    auto opened = SharedInbox::Open(place.inbox, size, ring_bytes);
    if (opened.ok()) {
      inboxes[static_cast<size_t>(peer)] = *std::move(opened);
    } else {
      LOG(WARNING) << "no shared memory with rank " << peer
                   << ", whose messages go another way: " << opened.status().message();
    }
  }
  return inboxes;
}

// A '1' for each rank whose inbox was opened.
std::string OpenedMask(const Inboxes& inboxes) {
  std::string mask;
  for (const auto& inbox : inboxes) mask.push_back(inbox == nullptr ? '0' : '1');
  return mask;
}

// Whether every rank has opened every other one's. All ranks see the same masks.
bool AllOpened(const std::vector<std::string>& masks) {
  const auto others = static_cast<std::ptrdiff_t>(masks.size()) - 1;
  return std::ranges::all_of(
      masks, [&](const std::string& mask) { return std::ranges::count(mask, '1') == others; });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateSharedMemoryCommunicator(
    std::unique_ptr<Communicator> inner, const SharedMemoryOptions& options,
    Rendezvous& rendezvous) {
  const int rank = inner->rank();
  const int size = inner->size();
  CHECK_GT(options.ring_bytes, 0u);
  if (size == 1) return inner;
  auto created = SharedInbox::Create(size, options.ring_bytes);
  if (!created.ok()) LOG(WARNING) << created.status().message();
  std::unique_ptr<SharedInbox> inbox = created.ok() ? *std::move(created) : nullptr;

  const std::string name = absl::StrCat("shared memory/", options.group);
  ASSIGN_OR_RETURN(const std::vector<std::string> places,
                   rendezvous.Exchange(name, Encode(inbox.get(), options.node)));
  RETURN_IF_ERROR(ExpectRanks(places.size(), size, options.group));
  ASSIGN_OR_RETURN(Inboxes inboxes, OpenInboxes(rank, places, options.ring_bytes));

  // A pair talks this way if both sides can.
  ASSIGN_OR_RETURN(const std::vector<std::string> masks,
                   rendezvous.Exchange(name + "/opened", OpenedMask(inboxes)));
  RETURN_IF_ERROR(ExpectRanks(masks.size(), size, options.group));
  std::vector<std::unique_ptr<SharedMemoryLink>> links;
  for (int peer = 0; peer < size; ++peer) {
    const auto i = static_cast<size_t>(peer);
    const std::string& mask = masks[i];
    const bool both = inboxes[i] != nullptr && mask.size() == masks.size() &&
                      mask[static_cast<size_t>(rank)] == '1';
    if (!both) continue;
    links.push_back(std::make_unique<SharedMemoryLink>(rank, peer, *inbox, std::move(inboxes[i])));
  }
  if (links.empty()) return inner;
  inbox->CloseDescriptor();
  // Its threads and connections would be for nothing. All ranks are past its creation and drop it.
  if (AllOpened(masks)) inner.reset();
  LOG(INFO) << "rank " << rank << " talks to " << links.size() << " of " << size - 1
            << " others through shared memory";
  return std::make_unique<SharedMemoryRank>(rank, size, std::move(inner), options.timeout,
                                            std::move(inbox), std::move(links));
}

}  // namespace dsrun::worker
