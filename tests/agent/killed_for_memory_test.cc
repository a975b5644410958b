#include "agent/killed_for_memory.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dsrun::agent {
namespace {

using testing::HasSubstr;

TEST(KilledForMemoryTest, WhatTheKernelHasCounted_IsToldOnceForEach) {
  OomKills counted = {.count = 5, .group = "/job"};
  KilledForMemory killed([&counted] { return counted; });
  EXPECT_EQ(killed.Explain(), "") << "what was before is nobody's of ours";
  counted.count = 7;
  EXPECT_EQ(killed.Explain(),
            "killed for want of memory by the kernel (oom_kill 7 in control group /job)");
  EXPECT_THAT(killed.Explain(), HasSubstr("killed for want of memory"));
  EXPECT_EQ(killed.Explain(), "") << "kill -9";
}

TEST(KilledForMemoryTest, OfTheMachine_IsAGuessAndSaysSo) {
  OomKills counted;
  KilledForMemory killed([&counted] { return counted; });
  counted.count = 1;
  EXPECT_THAT(killed.Explain(), HasSubstr(", as it seems: "));
}

}  // namespace
}  // namespace dsrun::agent
