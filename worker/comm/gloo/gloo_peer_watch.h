// Says when a peer's connection ends, also while nobody waits for that peer. Gloo reports a broken
// connection only to the messages pending on it, and has no wait for "any of these"; so messages
// that are never sent are kept pending on every connection, and a thread waits for the first error.
//
// They are posted once, before the membership proofs. Posting writes to the connection, and a peer
// that leaves in order with something unread resets it, which can take its last messages with it;
// so after the first end the rest is found by asking, every few milliseconds, without writing.
//
// Threads: `on_gone` is called from the watch's own thread.

#ifndef DSRUN_WORKER_COMM_GLOO_GLOO_PEER_WATCH_H_
#define DSRUN_WORKER_COMM_GLOO_GLOO_PEER_WATCH_H_

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "worker/comm/gloo/gloo_mesh.h"

namespace dsrun::worker {

class GlooPeerWatch {
 public:
  // `on_gone(peer)` is called once for each of `peers` at most. `mesh` must outlive this.
  GlooPeerWatch(GlooMesh& mesh, std::vector<int> peers, std::function<void(int)> on_gone);
  // Ends the thread; no call of on_gone after that.
  ~GlooPeerWatch();

 private:
  struct Peer {
    int rank;
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer;
    bool gone = false;
  };

  void Post(gloo::transport::UnboundBuffer& buffer, Peer& peer);
  void Run();
  // Reports the peers whose connection has ended; whether any is left.
  bool ReportGone();

  const std::function<void(int)> on_gone_;
  char byte_ = 0;
  std::vector<Peer> peers_;  // the thread's own, once it runs
  std::unique_ptr<gloo::transport::UnboundBuffer> any_;

  Mutex mu_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_GLOO_GLOO_PEER_WATCH_H_
