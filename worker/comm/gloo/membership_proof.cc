#include "worker/comm/gloo/membership_proof.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"

namespace dsrun::worker {

MembershipProof MakeMembershipProof(const std::string& job_token, int64_t generation,
                                    const std::string& group, int from, int to) {
  // The group's name comes last: it is the only part that could contain the separator.
  const std::string text =
      absl::StrCat("dsrun-communicator|", generation, "|", from, "|", to, "|", group);
  MembershipProof proof;
  unsigned int size = 0;
  const unsigned char* done =
      HMAC(EVP_sha256(), job_token.data(), static_cast<int>(job_token.size()),
           reinterpret_cast<const unsigned char*>(text.data()), text.size(), proof.data(), &size);
  CHECK(done != nullptr && size == proof.size()) << "HMAC-SHA256 is not available";
  return proof;
}

bool SameProof(const MembershipProof& a, const MembershipProof& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace dsrun::worker
