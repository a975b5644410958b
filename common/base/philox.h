// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): a block
// function from (counter, key) to 128 random bits. There is no generator and no state: whoever
// needs random bits says which ones, by seed, purpose and logical index, so they are the same for
// every layout, rank, call order and resume (docs/numerics.md, rule g). Pure; any thread; header
// only, so that vector loops can inline it. Integer arithmetic alone: the same bits on every
// machine.

#ifndef DSRUN_COMMON_BASE_PHILOX_H_
#define DSRUN_COMMON_BASE_PHILOX_H_

#include <array>
#include <cstdint>

namespace dsrun {

using PhiloxBlock = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

// The published function, ten rounds.
inline constexpr PhiloxBlock Philox4x32(PhiloxBlock counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// What random bits are for. Part of the counter, so purposes never share bits. Values are part of
// the numerics contract: never renumber.
enum class RandomPurpose : uint32_t {
  kInitialisation = 1,
  kDataOrder = 2,
  kDropout = 3,
  kSampling = 4,
};

// The 128 bits at (seed, purpose, stream, index). `stream` tells logical things of one purpose
// apart (a tensor's position in model order, a layer); `index` counts within one.
inline constexpr PhiloxBlock RandomAt(uint64_t seed, RandomPurpose purpose, uint32_t stream,
                                      uint64_t index) {
  return Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), stream,
                     static_cast<uint32_t>(purpose)},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

// The first 64 bits of a block as one number.
inline constexpr uint64_t RandomU64(const PhiloxBlock& block) {
  return (uint64_t{block[1]} << 32) | block[0];
}

// One word as a float in [0, 1): the upper 24 bits, every value exact.
inline constexpr float RandomUnitFloat(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PHILOX_H_
