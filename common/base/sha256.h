// SHA-256 in pieces (libcrypto).
//
//   Sha256 hash;  hash.Update(bytes);  std::string hex = hash.HexDigest();
//
// One thread per object.

#ifndef DSRUN_COMMON_BASE_SHA256_H_
#define DSRUN_COMMON_BASE_SHA256_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace dsrun {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text) { Update(std::as_bytes(std::span(text))); }
  // 64 lower-case hex digits. REQUIRES: called once; nothing after it.
  std::string HexDigest();

 private:
  evp_md_ctx_st* const context_;
};

std::string Sha256Hex(std::string_view text);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_SHA256_H_
