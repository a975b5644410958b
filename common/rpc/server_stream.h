// ServerStream: the server's end of a bidirectional stream whose two directions do not wait for
// each other. Sending never blocks: messages queue up and go out one by one.
//
//   grpc::ServerBidiReactor<In, Out>* Session(grpc::CallbackServerContext* context) override {
//     return ServerStream<In, Out>::Accept(handler);
//   }
//
// The handler is told every message, then exactly once that the other side is gone. A stream lives
// from Accept until gRPC has let go of it and the last shared_ptr is dropped; Send and Close are
// harmless at any time of that life.
//
// Send and Close are thread-safe. The handler's functions are called by gRPC's threads, one at a
// time, and must not block.

#ifndef DSRUN_COMMON_RPC_SERVER_STREAM_H_
#define DSRUN_COMMON_RPC_SERVER_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "common/rpc/status_codec.h"

namespace dsrun {

template <typename In, typename Out>
class ServerStream : public grpc::ServerBidiReactor<In, Out>,
                     public std::enable_shared_from_this<ServerStream<In, Out>> {
 public:
  using Ptr = std::shared_ptr<ServerStream>;
  struct Handler {
    std::function<void(const Ptr&, const In&)> on_message;
    // Nothing more will come: the peer closed, died, or the stream was closed here.
    std::function<void(const Ptr&)> on_gone;
  };

  static ServerStream* Accept(Handler handler) {
    Ptr stream(new ServerStream(std::move(handler)));
    stream->self_ = stream;
    stream->StartRead(&stream->incoming_);
    return stream.get();
  }

  // Queues `message`. Dropped when the stream is over.
  void Send(Out message) { SendSized(std::move(message), 0); }

  // The same, with its size counted in queued_bytes() until it is out.
  void SendSized(Out message, size_t bytes) {
    {
      MutexLock lock(mu_);
      if (closing_ || broken_) return;
      outgoing_.push_back({std::move(message), bytes});
      queued_bytes_ += bytes;
    }
    Advance();
  }

  size_t queued_bytes() const {
    MutexLock lock(mu_);
    return queued_bytes_;
  }

  // Ends the stream with `status` after everything queued is out. The first call counts.
  void Close(absl::Status status) {
    {
      MutexLock lock(mu_);
      if (closing_) return;
      closing_ = true;
      status_ = std::move(status);
    }
    Advance();
  }

 private:
  struct Queued {
    Out message;
    size_t bytes = 0;
  };

  explicit ServerStream(Handler handler) : handler_(std::move(handler)) {}

  void OnReadDone(bool ok) override {
    const Ptr self = self_;
    if (ok) {
      handler_.on_message(self, incoming_);
      // After Close the answer stands; what the peer still says is of no interest.
      bool more = false;
      {
        MutexLock lock(mu_);
        more = !closing_;
      }
      if (more) return this->StartRead(&incoming_);
    }
    Gone();
    // A half-close by the peer is the end of the conversation for us, too.
    Close(absl::OkStatus());
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mu_);
      writing_ = false;
      queued_bytes_ -= current_.bytes;
      if (!ok) BreakLocked();
    }
    Advance();
  }

  void OnCancel() override {
    {
      MutexLock lock(mu_);
      BreakLocked();
    }
    Close(absl::CancelledError("the stream is cancelled"));
  }

  void OnDone() override {
    Gone();
    self_.reset();  // may delete this
  }

  void BreakLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    broken_ = true;
    outgoing_.clear();
    queued_bytes_ = 0;
    current_.bytes = 0;
  }

  void Gone() {
    {
      MutexLock lock(mu_);
      if (std::exchange(gone_, true)) return;
    }
    handler_.on_gone(self_);
  }

  // Starts the next write or, when all is out and Close was called, finishes. The operation is
  // started without the lock, by whoever set the flag.
  void Advance() {
    bool write = false;
    {
      MutexLock lock(mu_);
      if (writing_ || finished_) return;
      if (!outgoing_.empty()) {
        current_ = std::move(outgoing_.front());
        outgoing_.pop_front();
        writing_ = write = true;
      } else if (closing_) {
        finished_ = true;
      } else {
        return;
      }
    }
    if (write) {
      this->StartWrite(&current_.message);
    } else {
      this->Finish(ToGrpc(status_));
    }
  }

  const Handler handler_;
  In incoming_;
  Ptr self_;  // until OnDone: gRPC holds a bare pointer
  mutable Mutex mu_;
  std::deque<Queued> outgoing_ ABSL_GUARDED_BY(mu_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool broken_ ABSL_GUARDED_BY(mu_) = false;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  Queued current_;       // of the writer: whoever set writing_
  absl::Status status_;  // constant once closing_ is set
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_SERVER_STREAM_H_
