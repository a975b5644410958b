// Comparison of secrets: the time taken says nothing about where they differ. Thread-safe.

#ifndef DSRUN_COMMON_RPC_CONSTANT_TIME_H_
#define DSRUN_COMMON_RPC_CONSTANT_TIME_H_

#include <openssl/crypto.h>

#include <string_view>

namespace dsrun {

// The length of a secret is no secret. An empty expectation admits nobody.
inline bool SecretsEqual(std::string_view expected, std::string_view got) {
  return !expected.empty() && expected.size() == got.size() &&
         CRYPTO_memcmp(expected.data(), got.data(), expected.size()) == 0;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_CONSTANT_TIME_H_
