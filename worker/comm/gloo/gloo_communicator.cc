#include "worker/comm/gloo/gloo_communicator.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "common/base/waits.h"
#include "worker/comm/core/exchange_errors.h"
#include "worker/comm/core/self_messages.h"
#include "worker/comm/gloo/gloo_mesh.h"
#include "worker/comm/gloo/gloo_peer_watch.h"
#include "worker/comm/gloo/membership_proof.h"

namespace dsrun::worker {
namespace {

using gloo::transport::UnboundBuffer;

// Message tags: the number of the message between two ranks, then its size. A message of another
// size than the expected one never matches, so it ends in a deadline; Gloo itself would end the
// process.
constexpr int kTagSizeBits = 40;

// For a message whose peer is known to be gone: either its data is here already, or the error is.
constexpr std::chrono::milliseconds kGonePatience(200);

constexpr absl::Duration kCancelPoll = absl::Milliseconds(5);

void IgnoreSigpipe() {
  static const bool done = [] {
    struct sigaction current = {};
    if (sigaction(SIGPIPE, nullptr, &current) == 0 && current.sa_handler == SIG_DFL) {
      signal(SIGPIPE, SIG_IGN);
    }
    return true;
  }();
  static_cast<void>(done);
}

// One message, or part of one, on its way.
struct Flight {
  int peer;
  bool is_recv;
  std::unique_ptr<UnboundBuffer> buffer;
  bool done = false;
};

class GlooRank : public Communicator {
 public:
  explicit GlooRank(const GlooOptions& options)
      : options_(options),
        timeout_(options.connect_timeout),
        sent_(static_cast<size_t>(options.size), 0),
        received_(static_cast<size_t>(options.size), 0),
        gone_(static_cast<size_t>(options.size), false) {}

  ~GlooRank() override {
    watch_.reset();
    mesh_.reset();
  }

  // What Create does, in its order.
  absl::Status Connect(Rendezvous& rendezvous);

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override;
  void SetTimeout(absl::Duration timeout) override { timeout_ = timeout; }

  void Abort(const std::string& reason) override {
    Fail(AbortedError(options_.rank, reason)).IgnoreError();
  }

 private:
  absl::Status ConnectAll(const std::vector<std::string>& blobs);
  absl::Status VerifyPeers();
  // Runs `work` while another thread ends it at the deadline or when cancelled.
  absl::Status Supervise(const std::function<absl::Status()>& work);

  absl::Status Post(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                    const std::string& what, std::vector<Flight>& flights);
  absl::Status PostPart(int peer, bool is_recv, char* data, size_t bytes, const std::string& what,
                        std::vector<Flight>& flights);
  // The next message to wait for, with the wait announced to Abort; null when all are done.
  absl::StatusOr<Flight*> Next(std::vector<Flight>& flights) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Wait(Flight& flight, const std::string& what, SteadyTime deadline)
      ABSL_LOCKS_EXCLUDED(mu_);
  // A peer's connection has ended; called by the watch.
  void PeerGone(int peer) ABSL_LOCKS_EXCLUDED(mu_);
  // Records the first error and wakes the waiter; returns the first error.
  absl::Status Fail(absl::Status error) ABSL_LOCKS_EXCLUDED(mu_);
  void WakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const GlooOptions options_;
  absl::Duration timeout_;          // of one Exchange
  std::vector<uint64_t> sent_;      // messages, by peer
  std::vector<uint64_t> received_;  // the same
  std::unique_ptr<GlooMesh> mesh_;  // null in a group of one
  std::unique_ptr<GlooPeerWatch> watch_;

  Mutex mu_;
  absl::Status error_ ABSL_GUARDED_BY(mu_);
  std::vector<bool> gone_ ABSL_GUARDED_BY(mu_);
  Flight* waiting_ ABSL_GUARDED_BY(mu_) = nullptr;
};

// --- Exchange

absl::Status GlooRank::Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                                const std::string& what) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + timeout_;
  CopySelfMessages(options_.rank, options_.size, sends, recvs, what);
  {
    MutexLock lock(mu_);
    if (!error_.ok()) return error_;
  }
  std::vector<Flight> flights;
  if (const absl::Status posted = Post(sends, recvs, what, flights); !posted.ok()) {
    return Fail(posted);
  }
  while (true) {
    ASSIGN_OR_RETURN(Flight * flight, Next(flights));
    if (flight == nullptr) return absl::OkStatus();
    if (const absl::Status waited = Wait(*flight, what, deadline); !waited.ok()) {
      return Fail(waited);
    }
  }
}

// Receives first: a message whose receiver is ready goes out without another round trip.
absl::Status GlooRank::Post(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                            const std::string& what, std::vector<Flight>& flights) {
  const auto post = [&](int peer, bool is_recv, char* data, size_t bytes) -> absl::Status {
    if (peer == options_.rank) return absl::OkStatus();
    while (bytes > 0) {
      const size_t part = std::min(bytes, options_.part_bytes);
      RETURN_IF_ERROR(PostPart(peer, is_recv, data, part, what, flights));
      data += part;
      bytes -= part;
    }
    return absl::OkStatus();
  };
  for (const RecvOp& recv : recvs) {
    RETURN_IF_ERROR(post(recv.peer, true, static_cast<char*>(recv.data), recv.bytes));
  }
  for (const SendOp& send : sends) {
    // Gloo takes both directions by the same pointer; it only reads from a buffer that is sent.
    char* data = const_cast<char*>(static_cast<const char*>(send.data));
    RETURN_IF_ERROR(post(send.peer, false, data, send.bytes));
  }
  return absl::OkStatus();
}

absl::Status GlooRank::PostPart(int peer, bool is_recv, char* data, size_t bytes,
                                const std::string& what, std::vector<Flight>& flights) {
  uint64_t& count = (is_recv ? received_ : sent_)[static_cast<size_t>(peer)];
  const uint64_t tag = (count++ << kTagSizeBits) | bytes;
  try {
    std::unique_ptr<UnboundBuffer> buffer = mesh_->Buffer(data, bytes);
    if (is_recv) {
      buffer->recv(peer, tag, 0, bytes);
    } else {
      buffer->send(peer, tag, 0, bytes);
    }
    flights.push_back({peer, is_recv, std::move(buffer)});
    return absl::OkStatus();
  } catch (const std::exception& error) {
    return PeerGoneError(options_.rank, peer, what, GlooErrorText(error));
  }
}

absl::StatusOr<Flight*> GlooRank::Next(std::vector<Flight>& flights) {
  MutexLock lock(mu_);
  if (!error_.ok()) return error_;
  Flight* next = nullptr;
  for (Flight& flight : flights) {
    if (flight.done) continue;
    // A peer that is gone is the cause of whatever else is missing.
    if (gone_[static_cast<size_t>(flight.peer)]) {
      next = &flight;
      break;
    }
    if (next == nullptr) next = &flight;
  }
  waiting_ = next;
  return next;
}

absl::Status GlooRank::Wait(Flight& flight, const std::string& what, SteadyTime deadline) {
  bool was_gone;
  {
    MutexLock lock(mu_);
    was_gone = gone_[static_cast<size_t>(flight.peer)];
  }
  // Rounded up: a wait that ended before the deadline would pass for a peer that is gone. 0 would
  // be no limit for Gloo.
  const absl::Duration left = deadline - Clock::Real().SteadyNow();
  const auto timeout =
      was_gone ? kGonePatience : ChronoMilliseconds(std::max(left, absl::Milliseconds(1)));
  absl::Status status;
  try {
    // False: woken by Abort or by a peer's end; Next decides.
    flight.done = flight.is_recv ? flight.buffer->waitRecv(nullptr, timeout)
                                 : flight.buffer->waitSend(nullptr, timeout);
  } catch (const std::exception& error) {
    // Gloo closes all connections when a wait times out, so this cannot ask who is gone now.
    const bool timed_out = !was_gone && Clock::Real().SteadyNow() >= deadline;
    status = timed_out ? NoAnswerError(
                             options_.rank, flight.peer, what,
                             flight.is_recv ? "a message from" : "the acceptance of a message by",
                             timeout_)
                       : PeerGoneError(options_.rank, flight.peer, what, GlooErrorText(error));
  }
  MutexLock lock(mu_);
  waiting_ = nullptr;
  return status;
}

void GlooRank::PeerGone(int peer) {
  MutexLock lock(mu_);
  gone_[static_cast<size_t>(peer)] = true;
  WakeLocked();
}

absl::Status GlooRank::Fail(absl::Status error) {
  MutexLock lock(mu_);
  if (error_.ok()) error_ = std::move(error);
  WakeLocked();
  return error_;
}

void GlooRank::WakeLocked() {
  if (waiting_ == nullptr) return;
  if (waiting_->is_recv) {
    waiting_->buffer->abortWaitRecv();
  } else {
    waiting_->buffer->abortWaitSend();
  }
}

// --- Create

absl::Status GlooRank::Connect(Rendezvous& rendezvous) {
  if (options_.size > 1) {
    IgnoreSigpipe();
    ASSIGN_OR_RETURN(mesh_, GlooMesh::Listen(options_.rank, options_.size, options_.bind_address,
                                             options_.connect_timeout));
    ASSIGN_OR_RETURN(
        const std::vector<std::string> blobs,
        rendezvous.Exchange(absl::StrCat("communicator/", options_.group), mesh_->AddressBlob()));
    if (static_cast<int>(blobs.size()) != options_.size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the rendezvous of group '", options_.group, "' has ", blobs.size(), " ranks, expected ",
          options_.size, "; coordinator and worker disagree about the generation"));
    }
    RETURN_IF_ERROR(Supervise([&] { return ConnectAll(blobs); }));
  }
  timeout_ = options_.timeout;
  return absl::OkStatus();
}

absl::Status GlooRank::ConnectAll(const std::vector<std::string>& blobs) {
  std::vector<int> peers;
  for (int peer = 0; peer < options_.size; ++peer) {
    if (peer == options_.rank) continue;
    RETURN_IF_ERROR(mesh_->Connect(peer, blobs[static_cast<size_t>(peer)]));
    peers.push_back(peer);
    MutexLock lock(mu_);
    if (!error_.ok()) return WithPeerRank(error_, peer);
  }
  watch_ = std::make_unique<GlooPeerWatch>(*mesh_, peers, [this](int peer) { PeerGone(peer); });
  return VerifyPeers();
}

absl::Status GlooRank::VerifyPeers() {
  const auto count = static_cast<size_t>(options_.size);
  std::vector<MembershipProof> mine(count), theirs(count);
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (int peer = 0; peer < options_.size; ++peer) {
    if (peer == options_.rank) continue;
    MembershipProof& proof = mine[static_cast<size_t>(peer)];
    proof = MakeMembershipProof(options_.job_token, options_.generation, options_.group,
                                options_.rank, peer);
    sends.push_back({peer, proof.data(), proof.size()});
    recvs.push_back({peer, theirs[static_cast<size_t>(peer)].data(), proof.size()});
  }
  RETURN_IF_ERROR(Exchange(sends, recvs, "proof of membership"));
  for (int peer = 0; peer < options_.size; ++peer) {
    if (peer == options_.rank) continue;
    const MembershipProof expected = MakeMembershipProof(options_.job_token, options_.generation,
                                                         options_.group, peer, options_.rank);
    if (SameProof(expected, theirs[static_cast<size_t>(peer)])) continue;
    return Fail(WithPeerRank(
        absl::PermissionDeniedError(absl::StrCat(
            "whoever answers as rank ", peer, " has not proved to rank ", options_.rank,
            " that it belongs to generation ", options_.generation, " of this job (group '",
            options_.group, "'): another token, generation or program; refused")),
        peer));
  }
  return absl::OkStatus();
}

absl::Status GlooRank::Supervise(const std::function<absl::Status()>& work) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + options_.connect_timeout;
  const auto too_late = [&] {
    return absl::DeadlineExceededError(
        absl::StrCat("rank ", options_.rank, " could not connect to all ", options_.size,
                     " ranks within ", absl::FormatDuration(options_.connect_timeout)));
  };
  Mutex mu;
  CondVar changed;
  bool finished = false;
  absl::Status ended;
  absl::StatusOr<std::thread> supervisor = StartThread("the deadline of connecting", [&] {
    while (ended.ok()) {
      if (options_.cancelled && options_.cancelled()) {
        ended = AbortedError(options_.rank, "cancelled while connecting");
      } else if (Clock::Real().SteadyNow() >= deadline) {
        ended = too_late();
      }
      if (!ended.ok()) {
        Fail(ended).IgnoreError();
        mesh_->Close();
        return;
      }
      MutexLock lock(mu);
      if (!finished) changed.WaitFor(mu, kCancelPoll);
      if (finished) return;
    }
  });
  if (!supervisor.ok()) return Fail(supervisor.status());
  const absl::Status status = work();
  {
    MutexLock lock(mu);
    finished = true;
    changed.NotifyAll();
  }
  supervisor->join();
  // Gloo has a patience of its own, and may have lost it before the supervisor ran. What a peer has
  // shown itself to be (PERMISSION_DENIED) stands, however late.
  const bool past_deadline = Clock::Real().SteadyNow() >= deadline;
  if (absl::IsUnavailable(status) && ended.ok() && past_deadline) ended = too_late();
  // Others that were cancelled a little earlier may have closed their connections already.
  if (!status.ok() && ended.ok() && options_.cancelled && options_.cancelled()) {
    ended = AbortedError(options_.rank, "cancelled while connecting");
  }
  if (ended.ok() || status.ok()) return ended.ok() ? status : ended;
  // The work was ended from outside; it knows which peer it was waiting for.
  const int peer = PeerRank(status);
  if (peer < 0) return ended;
  return WithPeerRank(Annotate(ended, absl::StrCat("waiting for rank ", peer)), peer);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> GlooCommunicator::Create(const GlooOptions& options,
                                                                       Rendezvous& rendezvous) {
  CHECK(options.size >= 1 && options.rank >= 0 && options.rank < options.size)
      << "rank " << options.rank << " of " << options.size;
  CHECK(options.part_bytes > 0 && options.part_bytes < size_t{1} << kTagSizeBits);
  auto rank = std::make_unique<GlooRank>(options);
  RETURN_IF_ERROR(rank->Connect(rendezvous));
  return rank;
}

}  // namespace dsrun::worker
