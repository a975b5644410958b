// --hidden-dropout and --attention-dropout.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "launcher/commands/dry_run.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using testing::HasSubstr;
using testing::Not;

using ResolveDropoutTest = DryRunTest;

TEST_F(ResolveDropoutTest, WithoutFlags_NothingIsDropped_AndNothingIsSaidOfIt) {
  EXPECT_EQ(Spec({}).hidden_dropout(), 0);
  EXPECT_EQ(Spec({}).attention_dropout(), 0);
  EXPECT_THAT(Text({}), Not(HasSubstr("dropout ")));
  EXPECT_THAT(Json({}), Not(HasSubstr("_dropout")));
  EXPECT_THAT(Text({"--hidden-dropout=0"}), Not(HasSubstr("dropout ")));
}

TEST_F(ResolveDropoutTest, Rates_AreSaid_AndTakeNoMemory) {
  const Args both = {"--hidden-dropout=0.1", "--attention-dropout=0.25"};
  EXPECT_EQ(Spec(both).hidden_dropout(), 0.1);
  EXPECT_EQ(Spec(both).attention_dropout(), 0.25);
  EXPECT_THAT(Text(both), HasSubstr("dropout       hidden 0.1, attention 0.25\n"));
  EXPECT_THAT(Text({"--attention-dropout=0.25"}), HasSubstr("dropout       attention 0.25\n"));
  EXPECT_THAT(Text({"--model=llama-nano", "--hidden_dropout=0.5"}),
              HasSubstr("dropout       hidden 0.5\n"));
  EXPECT_THAT(Json(both), HasSubstr("\"hidden_dropout\": 0.1"));
  EXPECT_THAT(Json(both), HasSubstr("\"attention_dropout\": 0.25"));
  EXPECT_EQ(Good(With(both)).memory.at(0).total_bytes(), Good(With({})).memory.at(0).total_bytes());
}

TEST_F(ResolveDropoutTest, WhatIsNoRate_IsOneFinding) {
  for (const std::string rate : {"1", "-0.1", "1.5", "nan", "inf", "half", ""}) {
    EXPECT_THAT(Refused(With({"--hidden-dropout=" + rate})),
                testing::StartsWith("--hidden-dropout: expected a number from 0 to below 1, got "))
        << rate;
  }
  EXPECT_EQ(Refused(With({"--hidden-dropout=1e-11"})),
            "--hidden-dropout: expected 0, or a rate from 2^-32 to 1 - 2^-16, got 1e-11\n");
  EXPECT_EQ(Refused(With({"--attention-dropout=1"})),
            "--attention-dropout: expected a number from 0 to below 1, got \"1\"\n");
}

}  // namespace
}  // namespace dsrun::launcher
