#include "common/rpc/grpc_log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <string>

#include "common/base/logging.h"

namespace dsrun {
namespace {

void OnProtobufLine(google::protobuf::LogLevel level, const char* file, int line,
                    const std::string& message) {
  if (level < google::protobuf::LOGLEVEL_ERROR) {
    VLOG(1) << "protobuf: " << message;
  } else {
    LOG(ERROR) << "protobuf: " << message << " (" << file << ":" << line << ")";
  }
}

}  // namespace

void TakeGrpcLog() {
  gpr_set_log_function([](gpr_log_func_args* line) { VLOG(1) << "gRPC: " << line->message; });
  google::protobuf::SetLogHandler(&OnProtobufLine);
}

}  // namespace dsrun
