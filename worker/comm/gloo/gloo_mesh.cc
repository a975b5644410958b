#include "worker/comm/gloo/gloo_mesh.h"

#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/device.h>

#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/waits.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {
namespace {

absl::Status BadBlob(int peer, const std::string& detail) {
  return WithPeerRank(absl::InvalidArgumentError(
                          absl::StrCat("the connection addresses of rank ", peer, " ", detail,
                                       "; all ranks must run the same version of dsrun")),
                      peer);
}

}  // namespace

std::string GlooErrorText(const std::exception& error) {
  const std::string text = error.what();
  const size_t end = text.find(".cc:");
  if (text.empty() || text.front() != '[' || end == std::string::npos) return text;
  const size_t bracket = text.find("] ", end);
  return bracket == std::string::npos ? text : text.substr(bracket + 2);
}

absl::StatusOr<std::unique_ptr<GlooMesh>> GlooMesh::Listen(int rank, int size,
                                                           const std::string& bind_address,
                                                           absl::Duration connect_timeout) {
  try {
    std::unique_ptr<GlooMesh> mesh(new GlooMesh(rank, size));
    mesh->device_ =
        gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(bind_address.c_str()));
    mesh->context_ = mesh->device_->createContext(rank, size);
    mesh->context_->setTimeout(ChronoMilliseconds(connect_timeout));
    for (int peer = 0; peer < size; ++peer) {
      if (peer != rank) mesh->context_->createPair(peer);
    }
    return mesh;
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " cannot listen on '",
                                                   bind_address, "': ", GlooErrorText(error),
                                                   "; give a numeric address of this machine"));
  }
}

// Not by Close: Gloo's Pair::close sets SO_LINGER to zero, which throws away what the kernel has
// not sent yet, and with it the last messages of a rank that leaves in order. A pair's destructor
// closes its socket plainly.
GlooMesh::~GlooMesh() = default;

std::string GlooMesh::AddressBlob() const {
  // By peer: length (4 bytes, this machine's order; ranks of one job share it), then the address.
  std::string blob;
  for (int peer = 0; peer < size_; ++peer) {
    std::vector<char> address;
    if (peer != rank_) address = context_->getPair(peer)->address().bytes();
    const auto length = static_cast<uint32_t>(address.size());
    blob.append(reinterpret_cast<const char*>(&length), sizeof(length));
    blob.append(address.begin(), address.end());
  }
  return blob;
}

absl::Status GlooMesh::Connect(int peer, const std::string& blob) {
  size_t position = 0;
  for (int rank = 0; rank < size_; ++rank) {
    uint32_t length = 0;
    if (blob.size() - position < sizeof(length)) return BadBlob(peer, "are cut short");
    std::memcpy(&length, blob.data() + position, sizeof(length));
    position += sizeof(length);
    if (blob.size() - position < length) return BadBlob(peer, "are cut short");
    if (rank == rank_) break;
    position += length;
  }
  uint32_t length = 0;
  std::memcpy(&length, blob.data() + position - sizeof(length), sizeof(length));
  if (length == 0) return BadBlob(peer, "lack one for this rank");
  try {
    const auto begin = blob.begin() + static_cast<std::ptrdiff_t>(position);
    context_->getPair(peer)->connect(std::vector<char>(begin, begin + length));
    return absl::OkStatus();
  } catch (const std::exception& error) {
    return WithPeerRank(
        absl::UnavailableError(absl::StrCat("rank ", rank_, " cannot connect to rank ", peer, ": ",
                                            GlooErrorText(error), "; see the log of rank ", peer)),
        peer);
  }
}

void GlooMesh::Close() {
  for (int peer = 0; context_ != nullptr && peer < size_; ++peer) {
    const std::unique_ptr<gloo::transport::Pair>& pair = context_->getPair(peer);
    if (pair != nullptr) pair->close();
  }
}

std::unique_ptr<gloo::transport::UnboundBuffer> GlooMesh::Buffer(void* data, size_t bytes) {
  return context_->createUnboundBuffer(data, bytes);
}

}  // namespace dsrun::worker
