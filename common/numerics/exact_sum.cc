#include "common/numerics/exact_sum.h"

#include <bit>
#include <cmath>
#include <limits>

namespace dsrun {
namespace {

constexpr int kMantissaBits = 52;
constexpr uint64_t kMantissaMask = (uint64_t{1} << kMantissaBits) - 1;
constexpr uint64_t kExponentMask = 0x7ff;
constexpr int64_t kDigitMask = 0xffffffff;

}  // namespace

// With an exponent field e (1 for the subnormal ones, too), x is mantissa times 2^(e - 1 - 1074).
void ExactSum::Add(double x) {
  const auto bits = std::bit_cast<uint64_t>(x);
  const bool negative = (bits >> 63) != 0;
  const uint64_t field = (bits >> kMantissaBits) & kExponentMask;
  uint64_t mantissa = bits & kMantissaMask;
  if (field == kExponentMask) {
    ++(mantissa != 0 ? nans_ : negative ? negative_infinities_ : positive_infinities_);
    return;
  }
  if (field != 0) mantissa |= kMantissaMask + 1;
  const uint64_t shift = field == 0 ? 0 : field - 1;
  const size_t first = shift / kDigitBits;
  // 53 bits that begin inside one digit reach into the third at most.
  const auto wide = static_cast<unsigned __int128>(mantissa) << (shift % kDigitBits);
  for (size_t k = 0; k < 3; ++k) {
    const auto part = static_cast<int64_t>(static_cast<uint64_t>(wide >> (kDigitBits * k)) &
                                           static_cast<uint64_t>(kDigitMask));
    digits_[first + k] += negative ? -part : part;
  }
  if (++uncarried_ == kMostUncarried) Carry();
}

void ExactSum::Add(const ExactSum& other) {
  ExactSum carried = other;
  carried.Carry();
  for (size_t k = 0; k < kDigits; ++k) digits_[k] += carried.digits_[k];
  if (++uncarried_ == kMostUncarried) Carry();
  positive_infinities_ += other.positive_infinities_;
  negative_infinities_ += other.negative_infinities_;
  nans_ += other.nans_;
}

void ExactSum::Carry() {
  int64_t carry = 0;
  for (size_t k = 0; k + 1 < kDigits; ++k) {
    const int64_t sum = digits_[k] + carry;
    digits_[k] = sum & kDigitMask;
    carry = sum >> kDigitBits;  // towards minus infinity
  }
  digits_[kDigits - 1] += carry;
  uncarried_ = 0;
}

double ExactSum::Round() const {
  if (nans_ > 0 || (positive_infinities_ > 0 && negative_infinities_ > 0)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (positive_infinities_ > 0) return std::numeric_limits<double>::infinity();
  if (negative_infinities_ > 0) return -std::numeric_limits<double>::infinity();
  ExactSum magnitude = *this;
  magnitude.Carry();
  const bool negative = magnitude.digits_[kDigits - 1] < 0;
  if (negative) {
    for (int64_t& digit : magnitude.digits_) digit = -digit;
    magnitude.Carry();
  }
  size_t top = kDigits;
  while (top > 0 && magnitude.digits_[top - 1] == 0) --top;
  if (top == 0) return 0;
  // The highest three digits hold 65 significant bits or more; what is below them matters only by
  // being there (sticky), for a tie.
  unsigned __int128 head = 0;
  size_t low = top > 3 ? top - 3 : 0;
  for (size_t k = top; k > low; --k) {
    head = (head << kDigitBits) | static_cast<uint64_t>(magnitude.digits_[k - 1]);
  }
  bool sticky = false;
  for (size_t k = 0; k < low; ++k) sticky |= magnitude.digits_[k] != 0;
  int exponent = kLowestBit + kDigitBits * static_cast<int>(low);  // of head's lowest bit
  const auto high = static_cast<uint64_t>(head >> 64);
  const int width =
      high != 0 ? 128 - std::countl_zero(high) : 64 - std::countl_zero(static_cast<uint64_t>(head));
  // 53 bits are kept, none of them below the lowest bit of a double.
  const int drop = width - (kMantissaBits + 1);
  if (drop > 0) {
    const auto rest = head & ((static_cast<unsigned __int128>(1) << drop) - 1);
    const auto half = static_cast<unsigned __int128>(1) << (drop - 1);
    head >>= drop;
    exponent += drop;
    if (rest > half || (rest == half && (sticky || (head & 1) != 0))) ++head;
  }
  const double value = std::ldexp(static_cast<double>(static_cast<uint64_t>(head)), exponent);
  return negative ? -value : value;
}

void ExactSum::WriteTo(std::span<int64_t, kWords> words) const {
  ExactSum carried = *this;
  carried.Carry();
  for (size_t k = 0; k < kDigits; ++k) words[k] = carried.digits_[k];
  words[kDigits] = positive_infinities_;
  words[kDigits + 1] = negative_infinities_;
  words[kDigits + 2] = nans_;
}

ExactSum ExactSum::ReadFrom(std::span<const int64_t, kWords> words) {
  ExactSum sum;
  for (size_t k = 0; k < kDigits; ++k) sum.digits_[k] = words[k];
  sum.positive_infinities_ = words[kDigits];
  sum.negative_infinities_ = words[kDigits + 1];
  sum.nans_ = words[kDigits + 2];
  return sum;
}

}  // namespace dsrun
