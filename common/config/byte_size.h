// "80GiB" -> bytes, for flags. Pure.

#ifndef DSRUN_COMMON_CONFIG_BYTE_SIZE_H_
#define DSRUN_COMMON_CONFIG_BYTE_SIZE_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace dsrun {

// A number, whole or with a decimal point, and a unit: KiB, MiB, GiB, TiB, PiB are powers of 1024,
// and so are K, M, G, T, P; KB, MB, GB, TB, PB are powers of 1000; B or nothing is bytes. Case does
// not matter; one blank may stand between. Absent: it is none, or more than 64 bits count.
std::optional<int64_t> ParseByteSize(std::string_view text);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_BYTE_SIZE_H_
