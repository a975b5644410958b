#include "worker/comm/gloo/gloo_peer_watch.h"

#include <chrono>
#include <utility>

#include "common/base/thread.h"

namespace dsrun::worker {
namespace {

// No message of an Exchange has this tag: its size part would be 2^40 - 1.
constexpr uint64_t kWatchTag = ~uint64_t{0};

constexpr absl::Duration kAskAgain = absl::Milliseconds(20);

// "For ever", without overflow. A wait that times out would make Gloo close everything.
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

}  // namespace

GlooPeerWatch::GlooPeerWatch(GlooMesh& mesh, std::vector<int> peers,
                             std::function<void(int)> on_gone)
    : on_gone_(std::move(on_gone)), any_(mesh.Buffer(&byte_, sizeof(byte_))) {
  for (const int peer : peers) peers_.push_back({peer, mesh.Buffer(&byte_, sizeof(byte_))});
  for (Peer& peer : peers_) {
    Post(*any_, peer);
    Post(*peer.buffer, peer);
  }
  thread_ = StartThreadOrEnd("the watch over peers", [this] { Run(); });
}

GlooPeerWatch::~GlooPeerWatch() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    stop_.NotifyAll();
    any_->abortWaitRecv();
  }
  thread_.join();
}

void GlooPeerWatch::Post(gloo::transport::UnboundBuffer& buffer, Peer& peer) {
  if (peer.gone) return;
  try {
    buffer.recv(peer.rank, kWatchTag, 0, sizeof(byte_));
  } catch (const std::exception&) {
    peer.gone = true;
    on_gone_(peer.rank);
  }
}

void GlooPeerWatch::Run() {
  try {
    any_->waitRecv(nullptr, kForever);
    return;  // stopped
  } catch (const std::exception&) {
    // Which connection has ended, ReportGone finds out.
  }
  while (ReportGone()) {
    MutexLock lock(mu_);
    if (!stopping_) stop_.WaitFor(mu_, kAskAgain);
    if (stopping_) return;
  }
}

bool GlooPeerWatch::ReportGone() {
  bool left = false;
  for (Peer& peer : peers_) {
    if (peer.gone) continue;
    try {
      // A wait that is aborted beforehand does not block: it throws if the connection has ended.
      peer.buffer->abortWaitRecv();
      peer.buffer->waitRecv(nullptr, kForever);
      left = true;
    } catch (const std::exception&) {
      peer.gone = true;
      on_gone_(peer.rank);
    }
  }
  return left;
}

}  // namespace dsrun::worker
