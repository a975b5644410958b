// GrpcSession: a Session over the agent's unix socket.

#ifndef DSRUN_WORKER_ENGINE_GRPC_SESSION_H_
#define DSRUN_WORKER_ENGINE_GRPC_SESSION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/worker.pb.h"
#include "worker/engine/session.h"

namespace dsrun::worker {

struct SessionOptions {
  proto::WorkerBootstrap bootstrap;
  Incarnation incarnation;
  absl::Duration connect_timeout = absl::Seconds(10);
  // The agent wants this process gone at once, or is gone itself: nobody may go on training
  // unsupervised. Called at most once, from the session's thread; expected to end the process.
  std::function<void(const std::string& reason)> on_over;
  // What the beat says; called from the beat thread.
  std::function<proto::Beat()> beat;
  // What the threads are doing; called from the beat thread when the agent asks. It may take as
  // long as a beat.
  std::function<proto::Stacks()> stacks;
  // The signal that has asked this process to stop, 0: none. Asked often, by any thread. One that
  // was got counts as a request to stop (Session::StopRequested), and the operator is told.
  std::function<int()> stop_signal;
};

// Connects, makes sure that the agent is there, says Hello, waits for Welcome. Starts the reader
// and the beat thread. Errors: UNAVAILABLE: no agent at the socket; PERMISSION_DENIED: somebody
// else is, or it does not take this process for its worker; UNAUTHENTICATED: wrong token.
absl::StatusOr<std::unique_ptr<Session>> ConnectGrpcSession(SessionOptions options);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_GRPC_SESSION_H_
