#include "worker/comm/gloo_peer_watch.h"

#include <chrono>
#include <utility>

namespace dsrun::worker {
namespace {

// No message of an Exchange has this tag: its size part would be 2^40 - 1.
constexpr uint64_t kWatchTag = ~uint64_t{0};

// "For ever", without overflow. A wait that times out would make Gloo close everything.
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

}  // namespace

GlooPeerWatch::GlooPeerWatch(GlooMesh& mesh, std::vector<int> peers,
                             std::function<void(int)> on_gone)
    : mesh_(mesh), peers_(std::move(peers)), on_gone_(std::move(on_gone)) {
  thread_ = std::thread([this] { Run(); });
}

GlooPeerWatch::~GlooPeerWatch() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    if (buffer_ != nullptr) buffer_->abortWaitRecv();
  }
  thread_.join();
}

void GlooPeerWatch::Run() {
  while (true) {
    gloo::transport::UnboundBuffer* buffer;
    {
      MutexLock lock(mu_);
      if (stopping_ || peers_.empty()) return;
      buffer_ = mesh_.Buffer(&byte_, sizeof(byte_));
      buffer = buffer_.get();
    }
    PostAll();
    try {
      buffer->waitRecv(nullptr, kForever);  // ends by abort, or throws
      return;
    } catch (const std::exception&) {
      // Which connection it was, the next PostAll finds out.
    }
  }
}

void GlooPeerWatch::PostAll() {
  gloo::transport::UnboundBuffer* buffer;
  {
    MutexLock lock(mu_);
    buffer = buffer_.get();
  }
  std::vector<int> alive;
  for (const int peer : peers_) {
    try {
      buffer->recv(peer, kWatchTag, 0, sizeof(byte_));
      alive.push_back(peer);
    } catch (const std::exception&) {
      on_gone_(peer);
    }
  }
  peers_ = std::move(alive);
}

}  // namespace dsrun::worker
