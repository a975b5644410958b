// Philox4x32-10 (common/base/philox.h) in sixteen lanes, and what a mask of dropout makes of its
// words (common/numerics/dropout.h). Integer arithmetic: the same bits on every CPU.
//
// Only for cpu_loops.cc and attention_tiles.cc, as lanes.h.

#ifndef DSRUN_WORKER_DEVICE_CPU_PHILOX_LANES_H_
#define DSRUN_WORKER_DEVICE_CPU_PHILOX_LANES_H_

#include "worker/device/cpu/lanes.h"

namespace dsrun::worker {
namespace {

typedef uint32_t NativeU __attribute__((vector_size(4 * kNative)));
typedef uint64_t NativeL __attribute__((vector_size(4 * kNative)));

struct U16 {
  NativeU part[kParts];
};

// The products, of 64 bits, of elements 0, 2, 4, ...: written out, since the compiler multiplies 64
// bits by 64 where it sees only such vectors.
DSRUN_INLINE NativeL MulEven(const NativeL& a, const NativeL& b) {
#if defined(__AVX512F__)
  typedef long long Out __attribute__((vector_size(64)));
  return (NativeL)__builtin_ia32_pmuludq512_mask((NativeI)a, (NativeI)b, Out{},
                                                 static_cast<uint8_t>(-1));
#elif defined(__AVX2__)
  return (NativeL)__builtin_ia32_pmuludq256((NativeI)a, (NativeI)b);
#else
  return (NativeL)__builtin_ia32_pmuludq128((NativeI)a, (NativeI)b);
#endif
}

DSRUN_INLINE void Multiply(const NativeU& x, uint32_t by, NativeU& high, NativeU& low) {
  const NativeL factor = NativeL{} + by;
  const NativeL even = MulEven((NativeL)x, factor);
  const NativeL odd = MulEven((NativeL)x >> 32, factor);
  high = (NativeU)((even >> 32) | (odd & ~uint64_t{0xffffffff}));
  low = (NativeU)((even & uint64_t{0xffffffff}) | (odd << 32));
}

// Blocks at counters {first + lane, c1, c2, 0}: words[w] has word w of each.
DSRUN_INLINE void PhiloxLanes(uint32_t first, uint32_t c1, uint32_t c2, const uint32_t* key,
                              U16 (&words)[4]) {
  DSRUN_EACH_PART {
    NativeU counter[4] = {(NativeU)Iota() + (first + static_cast<uint32_t>(k * kNative)),
                          NativeU{} + c1, NativeU{} + c2, NativeU{}};
    uint32_t key0 = key[0];
    uint32_t key1 = key[1];
    for (int round = 0; round < 10; ++round) {
      NativeU high_a, low_a, high_b, low_b;
      Multiply(counter[0], 0xD2511F53u, high_a, low_a);
      Multiply(counter[2], 0xCD9E8D57u, high_b, low_b);
      counter[0] = high_b ^ counter[1] ^ key0;
      counter[1] = low_b;
      counter[2] = high_a ^ counter[3] ^ key1;
      counter[3] = low_a;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    for (int word = 0; word < 4; ++word) words[word].part[k] = counter[word];
  }
}

// x where its word is kept, elsewhere 0.
DSRUN_INLINE F16 KeepLanes(const U16& words, uint32_t threshold, const F16& x) {
  F16 r;
  DSRUN_EACH_PART {
    const NativeI kept = words.part[k] >= threshold;
    r.part[k] = (NativeF)((NativeI)x.part[k] & kept);
  }
  return r;
}

// Columns that one evaluation has words for.
constexpr int64_t kMaskGroup = 64;

// keep[i], all ones or 0, of column 64 group + i of a row.
DSRUN_INLINE void KeepColumns(uint32_t group, uint32_t row, const uint32_t* key, uint32_t threshold,
                              int32_t* keep) {
  U16 words[4];
  PhiloxLanes(group * kLanes, row, 0, key, words);
  for (int word = 0; word < 4; ++word) {
    DSRUN_EACH_PART {
      const NativeI kept = words[word].part[k] >= threshold;
      __builtin_memcpy(keep + word * kLanes + k * kNative, &kept, sizeof(kept));
    }
  }
}

DSRUN_INLINE float KeepBits(float x, int32_t keep) {
  return __builtin_bit_cast(float, __builtin_bit_cast(int32_t, x) & keep);
}

}  // namespace
}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_PHILOX_LANES_H_
