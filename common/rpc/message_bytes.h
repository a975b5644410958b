// Messages to and from the bytes that travel. gRPC's own server says no more of a message that
// cannot be decoded than that nothing more comes; who takes the bytes and decodes them here can say
// what was wrong. Thread-safe.

#ifndef DSRUN_COMMON_RPC_MESSAGE_BYTES_H_
#define DSRUN_COMMON_RPC_MESSAGE_BYTES_H_

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/counted.h"

namespace dsrun {

template <typename Message>
grpc::ByteBuffer EncodeMessage(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own);
  return bytes;
}

// DATA_LOSS: it is none, or of a version that this one cannot read; the text says how long it was
// and what was expected.
template <typename Message>
absl::StatusOr<Message> DecodeMessage(grpc::ByteBuffer bytes) {
  const auto length = static_cast<int64_t>(bytes.Length());
  Message message;
  if (grpc::SerializationTraits<Message>::Deserialize(&bytes, &message).ok()) return message;
  return absl::DataLossError(absl::StrCat(
      "a message of ", Counted(length, "byte"), " cannot be decoded; expected one of type ",
      Message::descriptor()->full_name(), "; check that both programs are of the same version"));
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_MESSAGE_BYTES_H_
