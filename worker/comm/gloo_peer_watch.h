// Says when a peer's connection ends, also while nobody waits for that peer. Gloo reports a broken
// connection only to the messages pending on it, and has no wait for "any of these"; so a thread
// keeps one message pending on every connection that is never sent.
//
// Threads: `on_gone` is called from the watch's own thread.

#ifndef DSRUN_WORKER_COMM_GLOO_PEER_WATCH_H_
#define DSRUN_WORKER_COMM_GLOO_PEER_WATCH_H_

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "worker/comm/gloo_mesh.h"

namespace dsrun::worker {

class GlooPeerWatch {
 public:
  // `on_gone(peer)` is called once for each of `peers` at most. `mesh` must outlive this.
  GlooPeerWatch(GlooMesh& mesh, std::vector<int> peers, std::function<void(int)> on_gone);
  // Ends the thread; no call of on_gone after that.
  ~GlooPeerWatch();

 private:
  void Run();
  // Posts on all connections; reports and forgets those that have ended.
  void PostAll();

  GlooMesh& mesh_;
  std::vector<int> peers_;  // still there; the thread's own
  const std::function<void(int)> on_gone_;
  char byte_ = 0;

  Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<gloo::transport::UnboundBuffer> buffer_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_GLOO_PEER_WATCH_H_
