// CRC-32C (Castagnoli, RFC 3720 appendix B.4): finds every error burst of up to 32 bits, at the
// speed of memory. Pure; any thread.
//
//   uint32_t crc = 0;  crc = ExtendCrc32c(crc, first);  crc = ExtendCrc32c(crc, second);

#ifndef DSRUN_COMMON_BASE_CRC32C_H_
#define DSRUN_COMMON_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace dsrun {

// The checksum of (what `crc` is the checksum of) followed by `bytes`; 0 is that of nothing.
uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> bytes);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_CRC32C_H_
