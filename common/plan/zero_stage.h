// What a ZeRO stage means (Rajbhandari et al., 2020): who holds what. One row a stage; who needs to
// know reads it here. Pure.
//
// No stage changes a bit of exact sums: each moves the same integers and floats, and adds them in
// places of its own.

#ifndef DSRUN_COMMON_PLAN_ZERO_STAGE_H_
#define DSRUN_COMMON_PLAN_ZERO_STAGE_H_

#include <array>
#include <cstddef>

namespace dsrun {

enum class ZeroPart {
  kAll,    // every rank, of all elements
  kOwned,  // a rank, of the elements that it owns
};

struct ZeroStage {
  int number;
  ZeroPart slots;       // the optimizer's, and the reduced gradient that they are updated with
  ZeroPart sums;        // over the batch, before they are reduced
  ZeroPart parameters;  // between their uses
};

inline constexpr int kDefaultZeroStage = 1;
inline constexpr std::array<ZeroStage, 4> kZeroStages = {{
    {.number = 0, .slots = ZeroPart::kAll, .sums = ZeroPart::kAll, .parameters = ZeroPart::kAll},
    {.number = 1, .slots = ZeroPart::kOwned, .sums = ZeroPart::kAll, .parameters = ZeroPart::kAll},
    {.number = 2,
     .slots = ZeroPart::kOwned,
     .sums = ZeroPart::kOwned,
     .parameters = ZeroPart::kAll},
    // Its sums will be its owners', too, when stage 2 is built.
    {.number = 3,
     .slots = ZeroPart::kOwned,
     .sums = ZeroPart::kAll,
     .parameters = ZeroPart::kOwned},
}};

constexpr bool IsZeroStage(int number) { return number >= 0 && number <= 3; }

// REQUIRES: IsZeroStage(number).
constexpr const ZeroStage& ZeroStageOf(int number) {
  return kZeroStages[static_cast<size_t>(number)];
}

// Whose parts this engine has; the others are refused (Trainer::Create, dsrun).
constexpr bool IsBuiltZeroStage(int number) { return IsZeroStage(number) && number != 2; }
inline constexpr char kBuiltZeroStages[] = "0, 1 and 3";

// Under which backward may compute layers again (recompute_plan.h): not yet where each is gathered
// once in backward.
constexpr bool RecomputesUnder(int number) { return number != 3; }

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_ZERO_STAGE_H_
