#include "worker/api/job_place.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

absl::StatusOr<JobPlace> From(const Variables& variables) {
  return JobPlace::From([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional<std::string>(found->second);
  });
}

Variables OfDsrun() {
  return {{"RANK", "1"},
          {"WORLD_SIZE", "4"},
          {"LOCAL_WORLD_SIZE", "2"},
          {"MASTER_ADDR", "127.0.0.1"},
          {"MASTER_PORT", "29500"},
          {"TORCHELASTIC_RUN_ID", "job-7"},
          {"TORCHELASTIC_RESTART_COUNT", "2"}};
}

TEST(JobPlace, WhatDsrunSets_IsRead) {
  const auto place = From(OfDsrun());
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->rank, 1);
  EXPECT_EQ(place->size, 4);
  EXPECT_EQ(place->local_size, 2);
  EXPECT_EQ(place->address, "127.0.0.1:29500");
  EXPECT_EQ(place->job, "job-7");
  EXPECT_EQ(place->generation, 3);
}

TEST(JobPlace, NothingSet_IsTheOnlyRank) {
  const auto place = From({{"MASTER_PORT", "not a port"}});
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->size, 1);
  EXPECT_EQ(place->address, "");
}

TEST(JobPlace, LocalhostAndVersionSix_AreNumeric) {
  Variables variables = OfDsrun();
  variables["MASTER_ADDR"] = "localhost";
  EXPECT_EQ(From(variables)->address, "127.0.0.1:29500");
  variables["MASTER_ADDR"] = "::1";
  EXPECT_EQ(From(variables)->address, "[::1]:29500");
}

TEST(JobPlace, WrongValue_NamesTheVariable) {
  for (const auto& [name, value] : Variables{{"RANK", "4"},
                                             {"WORLD_SIZE", "0"},
                                             {"LOCAL_WORLD_SIZE", "5"},
                                             {"MASTER_PORT", "65536"},
                                             {"TORCHELASTIC_RESTART_COUNT", "-1"}}) {
    Variables variables = OfDsrun();
    variables[name] = value;
    const absl::Status status = From(variables).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("environment variable " + name + ": expected a number from"));
  }
  Variables variables = OfDsrun();
  variables.erase("WORLD_SIZE");
  EXPECT_THAT(std::string(From(variables).status().message()),
              HasSubstr("WORLD_SIZE: expected a number from 1 to 2147483647, got nothing"));
}

}  // namespace
}  // namespace dsrun
