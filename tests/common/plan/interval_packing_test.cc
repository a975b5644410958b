#include "common/plan/interval_packing.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

int64_t Aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// What lives at the moment when most does: no arena can be smaller.
int64_t MostAtOnce(const std::vector<PackedBuffer>& buffers) {
  int64_t most = 0;
  for (const PackedBuffer& at : buffers) {
    int64_t bytes = 0;
    for (const PackedBuffer& other : buffers) {
      if (other.life.first <= at.life.first && at.life.first <= other.life.last) {
        bytes += Aligned(other.bytes);
      }
    }
    most = std::max(most, bytes);
  }
  return most;
}

void ExpectSound(const std::vector<PackedBuffer>& buffers, int64_t total) {
  EXPECT_GE(total, MostAtOnce(buffers));
  for (size_t i = 0; i < buffers.size(); ++i) {
    const PackedBuffer& a = buffers[i];
    EXPECT_EQ(a.offset % 64, 0);
    EXPECT_GE(a.offset, 0);
    EXPECT_LE(a.offset + a.bytes, total);
    for (size_t j = 0; j < i; ++j) {
      const PackedBuffer& b = buffers[j];
      if (!a.life.Meets(b.life)) continue;
      EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset)
          << i << " and " << j;
    }
  }
}

TEST(IntervalPackingTest, NothingNeedsNothing) {
  std::vector<PackedBuffer> none;
  EXPECT_EQ(PackIntervals(none), 0);
}

TEST(IntervalPackingTest, WhatComesOneAfterTheOther_LiesOnTheSameBytes) {
  std::vector<PackedBuffer> buffers = {{100, {0, 1}}, {300, {2, 3}}, {200, {4, 9}}};
  EXPECT_EQ(PackIntervals(buffers), 320);
  for (const PackedBuffer& buffer : buffers) EXPECT_EQ(buffer.offset, 0);
}

TEST(IntervalPackingTest, TheTightestGapIsTaken) {
  const Lifetime always{0, 1};
  // What lives at moment 0 alone leaves gaps of 512 and 128 bytes at moment 1.
  std::vector<PackedBuffer> buffers = {{1024, always}, {512, {0, 0}}, {256, always},
                                       {128, {0, 0}},  {128, always}, {120, {1, 1}}};
  const int64_t total = PackIntervals(buffers);
  ExpectSound(buffers, total);
  EXPECT_EQ(total, 2048);
  EXPECT_EQ(buffers.back().offset, 1024 + 512 + 256);
}

// As a model's passes: kept from forward to backward, workspace at two moments. All that is kept
// lives at the turn, so the arena needs no more than that moment.
TEST(IntervalPackingTest, PassesOfLayers_NeedWhatTheTurnNeeds) {
  constexpr int64_t kLayers = 24;
  std::vector<PackedBuffer> buffers;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const Lifetime kept{layer, 2 * kLayers - 1 - layer};
    for (const int64_t bytes : {4096, 64, 12288, 16384}) buffers.push_back({bytes, kept});
    buffers.push_back({16384, {layer, layer}});
    buffers.push_back({16384, {kept.last, kept.last}});
  }
  const int64_t total = PackIntervals(buffers);
  ExpectSound(buffers, total);
  EXPECT_LE(total, MostAtOnce(buffers));
}

TEST(IntervalPackingTest, RandomBuffers_AreSoundAndNotFarFromTheLeast) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<PackedBuffer> buffers(1 + random() % 60);
    for (PackedBuffer& buffer : buffers) {
      buffer.bytes = 1 + static_cast<int64_t>(random() % 10000);
      buffer.life.first = static_cast<int64_t>(random() % 50);
      buffer.life.last = buffer.life.first + static_cast<int64_t>(random() % 20);
    }
    const int64_t total = PackIntervals(buffers);
    ExpectSound(buffers, total);
    EXPECT_LE(total, 2 * MostAtOnce(buffers));
  }
}

// The rule itself, as slow as it reads: the largest first, in the tightest gap between all that
// lives together with it.
int64_t PackSlowly(std::vector<PackedBuffer>& buffers) {
  std::vector<PackedBuffer*> order;
  for (PackedBuffer& buffer : buffers) order.push_back(&buffer);
  std::stable_sort(order.begin(), order.end(), [](const PackedBuffer* a, const PackedBuffer* b) {
    return a->bytes > b->bytes;
  });
  int64_t total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    std::vector<const PackedBuffer*> others;
    for (size_t j = 0; j < i; ++j) {
      if (order[j]->life.Meets(order[i]->life)) others.push_back(order[j]);
    }
    std::stable_sort(
        others.begin(), others.end(),
        [](const PackedBuffer* a, const PackedBuffer* b) { return a->offset < b->offset; });
    int64_t best = -1, tightest = 0, end = 0;
    for (const PackedBuffer* other : others) {
      const int64_t gap = other->offset - end;
      if (gap >= Aligned(order[i]->bytes) && (best < 0 || gap < tightest)) {
        tightest = gap;
        best = end;
      }
      end = std::max(end, other->offset + Aligned(other->bytes));
    }
    order[i]->offset = best >= 0 ? best : end;
    total = std::max(total, order[i]->offset + Aligned(order[i]->bytes));
  }
  return total;
}

TEST(IntervalPackingTest, IsTheRuleItself) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    std::vector<PackedBuffer> buffers(1 + random() % 300);
    const int64_t moments = 1 + random() % 100;
    const int64_t longest = 1 + random() % moments;
    for (PackedBuffer& buffer : buffers) {
      buffer.bytes = 1 + random() % 5000;
      buffer.life.first = static_cast<int64_t>(random()) % moments;
      buffer.life.last = buffer.life.first + static_cast<int64_t>(random()) % longest;
      if (random() % 20 == 0) buffer.life.last = std::numeric_limits<int64_t>::max();
    }
    std::vector<PackedBuffer> slowly = buffers;
    ASSERT_EQ(PackIntervals(buffers), PackSlowly(slowly)) << "seed " << seed;
    for (size_t i = 0; i < buffers.size(); ++i) {
      ASSERT_EQ(buffers[i].offset, slowly[i].offset) << "seed " << seed << ", buffer " << i;
    }
  }
}

}  // namespace
}  // namespace dsrun
