// A Gloo transport context with one TCP pair per peer: the part that knows Gloo's set-up, and where
// its exceptions end. Included by gloo_*.cc only.
//
// Threads: Close from any thread; everything else by the owner.

#ifndef DSRUN_WORKER_COMM_GLOO_GLOO_MESH_H_
#define DSRUN_WORKER_COMM_GLOO_GLOO_MESH_H_

#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dsrun::worker {

// A Gloo message without the source location of the library's build in front.
std::string GlooErrorText(const std::exception& error);

class GlooMesh {
 public:
  // Opens one listening socket for each peer. `connect_timeout` bounds Connect from above, loosely.
  static absl::StatusOr<std::unique_ptr<GlooMesh>> Listen(int rank, int size,
                                                          const std::string& bind_address,
                                                          absl::Duration connect_timeout);
  // Leaves in order: what was sent arrives. No buffer may outlive it.
  ~GlooMesh();

  // Where each of the others reaches us; to be given to all of them.
  std::string AddressBlob() const;
  // Blocks until the connection stands, or Close. `blob` is the peer's AddressBlob.
  absl::Status Connect(int peer, const std::string& blob);
  // Resets all connections, with whatever is still on its way; a blocked Connect ends. Idempotent.
  // Up to some ten ms per peer.
  void Close();

  std::unique_ptr<gloo::transport::UnboundBuffer> Buffer(void* data, size_t bytes);

 private:
  GlooMesh(int rank, int size) : rank_(rank), size_(size) {}

  const int rank_;
  const int size_;
  std::shared_ptr<gloo::transport::Device> device_;
  std::shared_ptr<gloo::transport::Context> context_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_GLOO_GLOO_MESH_H_
