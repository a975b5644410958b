// google.protobuf.Duration, the wire's way to say how long, as absl::Duration.

#ifndef DSRUN_COMMON_BASE_PROTO_DURATION_H_
#define DSRUN_COMMON_BASE_PROTO_DURATION_H_

#include <google/protobuf/duration.pb.h>

#include "absl/time/time.h"

namespace dsrun {

inline absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROTO_DURATION_H_
