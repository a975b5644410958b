// The ticket of a connection, as a call shows it: one entry of its metadata. Thread-safe.

#ifndef DSRUN_COMMON_RPC_INTRODUCTION_H_
#define DSRUN_COMMON_RPC_INTRODUCTION_H_

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "common/rpc/guest_list.h"

namespace dsrun {

inline constexpr char kTicketEntry[] = "dsrun-ticket";

// Before the call is started.
inline void Introduce(grpc::ClientContext& context, const std::string& ticket) {
  context.AddMetadata(kTicketEntry, absl::BytesToHexString(ticket));
}

// Null: it came through no door of ours, or is not the first call of its connection.
inline std::shared_ptr<Guest> Introduced(GuestList& guests,
                                         const grpc::ServerContextBase& context) {
  const auto entry = context.client_metadata().find(kTicketEntry);
  if (entry == context.client_metadata().end()) return nullptr;
  return guests.Claim(
      absl::HexStringToBytes(absl::string_view(entry->second.data(), entry->second.size())));
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_INTRODUCTION_H_
