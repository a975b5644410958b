// gRPC's own log lines in ours, where somebody asked for them (--v=1), instead of raw on standard
// error, which may hold up whoever writes there: whatever matters of them reaches the caller as a
// status. Protobuf's the same, and its errors always. Thread-safe.

#ifndef DSRUN_COMMON_RPC_GRPC_LOG_H_
#define DSRUN_COMMON_RPC_GRPC_LOG_H_

namespace dsrun {

// Before the first channel or server of the process; again changes nothing.
void TakeGrpcLog();

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_GRPC_LOG_H_
