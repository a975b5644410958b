// --zero3-...

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;

class ZeroTest : public ResolveTest {};

TEST_F(ZeroTest, SettingsOfStage3_AtAnotherStage_AreRefused) {
  for (const std::string name : {"prefetch", "persistence-threshold", "max-live-parameters",
                                 "max-reuse-distance", "sub-group-size"}) {
    const std::string flag = "--zero3-" + name;
    EXPECT_THAT(Refused({"train", "--data=" + dir_ + "/text", flag + "=5"}),
                HasSubstr(flag + ": it is a setting of ZeRO stage 3, and this job's stage is 1"));
  }
}

TEST_F(ZeroTest, WithoutThem_NothingIsSaid) {
  EXPECT_FALSE(Good({"train", "--data=" + dir_ + "/text"}).job.train().has_zero());
}

}  // namespace
}  // namespace dsrun::launcher
