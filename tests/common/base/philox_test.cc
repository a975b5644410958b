#include "common/base/philox.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>

namespace dsrun {
namespace {

// The known answers published with the paper's reference implementation (philox4x32, 10 rounds).
TEST(PhiloxTest, GivesThePublishedAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, RandomAt_EveryPartOfTheAddressReachesTheBlock) {
  std::set<PhiloxBlock> seen;
  const uint64_t far = uint64_t{1} << 40;
  seen.insert(RandomAt(1, RandomPurpose::kDataOrder, 0, 0));
  seen.insert(RandomAt(1 + far, RandomPurpose::kDataOrder, 0, 0));
  seen.insert(RandomAt(2, RandomPurpose::kDataOrder, 0, 0));
  seen.insert(RandomAt(1, RandomPurpose::kInitialisation, 0, 0));
  seen.insert(RandomAt(1, RandomPurpose::kDataOrder, 1, 0));
  seen.insert(RandomAt(1, RandomPurpose::kDataOrder, 0, 1));
  seen.insert(RandomAt(1, RandomPurpose::kDataOrder, 0, far));
  EXPECT_EQ(seen.size(), 7u);
}

TEST(PhiloxTest, RandomUnitFloat_StaysBelowOne) {
  EXPECT_EQ(RandomUnitFloat(0), 0.0f);
  EXPECT_LT(RandomUnitFloat(0xffffffffu), 1.0f);
  EXPECT_EQ(RandomUnitFloat(0x80000000u), 0.5f);
}

}  // namespace
}  // namespace dsrun
