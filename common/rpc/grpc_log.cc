#include "common/rpc/grpc_log.h"

#include <grpc/support/log.h>

#include "common/base/logging.h"

namespace dsrun {

void TakeGrpcLog() {
  gpr_set_log_function([](gpr_log_func_args* line) { VLOG(1) << "gRPC: " << line->message; });
}

}  // namespace dsrun
