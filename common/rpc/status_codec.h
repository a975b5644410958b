// absl::Status <-> grpc::Status. The codes are the same numbers on purpose; payloads travel in the
// error details. Thread-safe.

#ifndef DSRUN_COMMON_RPC_STATUS_CODEC_H_
#define DSRUN_COMMON_RPC_STATUS_CODEC_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace dsrun {

grpc::Status ToGrpc(const absl::Status& status);
// Details that ToGrpc did not write are dropped; code and text are always kept.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_STATUS_CODEC_H_
