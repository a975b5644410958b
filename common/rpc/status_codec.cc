#include "common/rpc/status_codec.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/strings/cord.h"

namespace dsrun {
namespace {

// Each payload: length and bytes of its type, length and bytes of its content; lengths are 4 bytes,
// little-endian.
void Append(std::string& out, const std::string& bytes) {
  const uint32_t size = static_cast<uint32_t>(bytes.size());
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(size >> shift));
  out += bytes;
}

bool Take(std::string_view& in, std::string& bytes) {
  if (in.size() < 4) return false;
  uint32_t size = 0;
  for (int i = 0; i < 4; ++i) size |= uint32_t{static_cast<uint8_t>(in[i])} << (8 * i);
  if (in.size() - 4 < size) return false;
  bytes = in.substr(4, size);
  in.remove_prefix(4 + size);
  return true;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string details;
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& content) {
    Append(details, std::string(type));
    Append(details, std::string(content));
  });
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      details);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  const std::string details = status.error_details();
  std::string_view rest = details;
  const absl::Status bare = result;
  while (!rest.empty()) {
    std::string type, content;
    if (!Take(rest, type) || !Take(rest, content)) return bare;
    result.SetPayload(type, absl::Cord(content));
  }
  return result;
}

}  // namespace dsrun
