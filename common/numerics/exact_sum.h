// ExactSum: a sum of doubles without rounding, hence without an order: any grouping, on any number
// of ranks, gives the same bits. A number in fixed point that is wide enough for every double
// (Kulisch, 1971; the small superaccumulator of Neal, 2015), rounded once, to nearest even, when it
// is read. Losses and gradient norms are summed in it (docs/numerics.md).
//
// Infinities and NaN are counted apart: Round then gives what adding them in any order gives (NaN
// for infinities of both signs). Pure; one thread.

#ifndef DSRUN_COMMON_NUMERICS_EXACT_SUM_H_
#define DSRUN_COMMON_NUMERICS_EXACT_SUM_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dsrun {

class ExactSum {
 public:
  // What travels: kWords integers.
  static constexpr size_t kWords = 70;

  void Add(double x);
  void Add(const ExactSum& other);

  // The double nearest to the sum, ties to even. The sum of nothing, and one that comes to nothing,
  // is +0.
  double Round() const;

  // The same sum has the same words, however it came about.
  void WriteTo(std::span<int64_t, kWords> words) const;
  static ExactSum ReadFrom(std::span<const int64_t, kWords> words);

 private:
  // Digit k counts 2^(32 k - 1074): from the smallest double's bit to the largest's, 2^1023, and
  // room for 2^30 of them. Digits are signed and may exceed 32 bits until they are carried.
  static constexpr size_t kDigits = 67;
  static constexpr int kDigitBits = 32;
  static constexpr int kLowestBit = -1074;
  // So many additions of less than 2^32 each fit into a digit.
  static constexpr int64_t kMostUncarried = int64_t{1} << 30;

  // Afterwards all digits but the highest are in [0, 2^32), and the highest has the sum's sign.
  void Carry();

  std::array<int64_t, kDigits> digits_{};
  int64_t uncarried_ = 0;
  int64_t positive_infinities_ = 0;
  int64_t negative_infinities_ = 0;
  int64_t nans_ = 0;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_NUMERICS_EXACT_SUM_H_
