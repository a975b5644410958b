// Dropout (Srivastava et al., 2014): which elements of a training pass are dropped. Pure; any
// thread.
//
// A mask is a function of (seed, step, sample, site, position) and of nothing else, so nothing of
// it is stored and no layout changes it (docs/numerics.md, rule n):
//   1. A sample's key of a site is words 0 and 1 of Philox4x32-10 at seed, RandomPurpose::kDropout,
//      stream = site, index = step 2^32 + sample: RandomAt (common/base/philox.h).
//   2. Under that key the counter says where an element stands, and one of its four words is the
//      element's:
//        row r, column c:           counter {16 (c / 64) + c % 16, r, 0, 0}, word c / 16 % 4
//        head h, query q, key k:    counter {q, k / 4, h, 0},                word k % 4
//      So a vector loop of sixteen lanes has words of sixteen neighbours, without moving lanes.
//   3. An element is kept if its word is at least floor(rate 2^32). What is kept is multiplied by
//      1 / (1 - rate), rounded once to fp32; what is dropped is 0.
//
// Part of the numerics contract: another layout of the counter is another curve.

#ifndef DSRUN_COMMON_NUMERICS_DROPOUT_H_
#define DSRUN_COMMON_NUMERICS_DROPOUT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "common/base/philox.h"

namespace dsrun {

// A rate is the share that is dropped: 0, or from 2^-32, the least that drops anything, to 1 -
// 2^-16, beyond which what is kept and its scale are no longer each other's. NaN is none.
inline constexpr double kLeastDropoutRate = 0x1p-32;
inline constexpr double kMostDropoutRate = 1 - 0x1p-16;
constexpr bool IsDropoutRate(double rate) {
  return rate == 0 || (rate >= kLeastDropoutRate && rate <= kMostDropoutRate);
}

inline constexpr char kDropoutRateWords[] = "expected 0, or a rate from 2^-32 to 1 - 2^-16";

// NumericsFingerprint's word for a rate: the shortest that reads back as the same number; of 0 the
// empty text. And back; nullopt: a word for no rate.
std::string DropoutWord(double rate);
std::optional<double> DropoutOfWord(const std::string& word);

// --hidden-dropout: of the embedding, and of what attention and MLP add to the stream.
// --attention-dropout: of the probabilities of attention.
struct DropoutRates {
  double hidden = 0;
  double attention = 0;
  friend bool operator==(const DropoutRates&, const DropoutRates&) = default;
};

// What random bits of one training pass follow from. A pass without them (a sample of text, an
// evaluation) drops nothing.
struct PassDraws {
  uint64_t seed = 0;         // the job's
  int64_t step = 0;          // steps that were finished before; the lower 32 bits count
  int64_t first_sample = 0;  // by its place in the global batch of the step; the others follow it
  DropoutRates rates = {};
};

// Uses of random bits that a layer has, below kUsesOfLayer: those of the job's own rates, and from
// kFirstOwnUse on those that a layer of one's own numbers.
inline constexpr uint32_t kHiddenUse = 0;
inline constexpr uint32_t kAttentionUse = 1;
inline constexpr uint32_t kFirstOwnUse = 2;
inline constexpr uint32_t kUsesOfLayer = 256;
constexpr uint32_t SiteOf(size_t layer, uint32_t use) {
  return static_cast<uint32_t>(layer) * kUsesOfLayer + use;
}

// The masks of one site, of all samples of a pass.
struct DropoutMask {
  uint32_t threshold = 0;  // words below it are dropped; 0: nothing is
  float scale = 1;
  uint32_t site = 0;
  uint64_t seed = 0;
  int64_t step = 0;
  int64_t first_sample = 0;

  bool drops() const { return threshold != 0; }
  // The key of the pass's sample `sample`, from 0 on.
  PhiloxKey KeyOf(int64_t sample) const {
    const uint64_t index =
        (static_cast<uint64_t>(step) << 32) + static_cast<uint32_t>(first_sample + sample);
    const PhiloxBlock block = RandomAt(seed, RandomPurpose::kDropout, site, index);
    return {block[0], block[1]};
  }
};

// REQUIRES: IsDropoutRate(rate).
constexpr DropoutMask MaskAt(double rate, const PassDraws& draws, uint32_t site) {
  return {.threshold = static_cast<uint32_t>(rate * 0x1p32),
          .scale = static_cast<float>(1 / (1 - rate)),
          .site = site,
          .seed = draws.seed,
          .step = draws.step,
          .first_sample = draws.first_sample};
}

// Of one element at a time: for layers of one's own, and what the kernels are held against. Loops
// over many take the key out.
inline bool KeepsElement(const DropoutMask& mask, PhiloxKey key, int64_t row, int64_t column) {
  const auto c = static_cast<uint32_t>(column);
  const PhiloxBlock block =
      Philox4x32({c / 64 * 16 + c % 16, static_cast<uint32_t>(row), 0, 0}, key);
  return block[c / 16 % 4] >= mask.threshold;
}
inline bool KeepsScore(const DropoutMask& mask, PhiloxKey key, int64_t head, int64_t query,
                       int64_t of_key) {
  const PhiloxBlock block =
      Philox4x32({static_cast<uint32_t>(query), static_cast<uint32_t>(of_key / 4),
                  static_cast<uint32_t>(head), 0},
                 key);
  return block[static_cast<size_t>(of_key % 4)] >= mask.threshold;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_NUMERICS_DROPOUT_H_
