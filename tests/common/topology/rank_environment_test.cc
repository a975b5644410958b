#include "common/topology/rank_environment.h"

#include <map>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(RankEnvironment, HasDeepSpeedsAndTorchrunsNames) {
  const auto placement =
      PlaceRanks({{NodeId(0), {Slot(0), Slot(1), Slot(2)}}, {NodeId(1), {Slot(4), Slot(6)}}});
  ASSERT_TRUE(placement.ok());
  RankEnvironmentInput input;
  input.place = placement->ranks[4];
  input.world_size = 5;
  input.master_addr = "127.0.0.1";
  input.master_port = 29500;
  input.job_id = "job";
  input.restart_count = 2;
  input.max_restarts = 7;
  input.error_file = "/runs/job/error.json";
  input.visible_gpus = {Slot(4), Slot(6)};
  const auto got = RankEnvironment(input);
  const std::map<std::string, std::string> want = {
      {"RANK", "4"},
      {"LOCAL_RANK", "1"},
      {"WORLD_SIZE", "5"},
      {"LOCAL_WORLD_SIZE", "2"},
      {"LOCAL_SIZE", "2"},
      {"CROSS_RANK", "1"},
      {"CROSS_SIZE", "2"},
      {"NODE_RANK", "1"},
      {"MASTER_ADDR", "127.0.0.1"},
      {"MASTER_PORT", "29500"},
      {"GROUP_RANK", "1"},
      {"GROUP_WORLD_SIZE", "2"},
      {"ROLE_RANK", "4"},
      {"ROLE_WORLD_SIZE", "5"},
      {"ROLE_NAME", "default"},
      {"TORCHELASTIC_RESTART_COUNT", "2"},
      {"TORCHELASTIC_MAX_RESTARTS", "7"},
      {"TORCHELASTIC_RUN_ID", "job"},
      {"TORCHELASTIC_USE_AGENT_STORE", "False"},
      {"TORCHELASTIC_ERROR_FILE", "/runs/job/error.json"},
      {"CUDA_VISIBLE_DEVICES", "4,6"},
  };
  EXPECT_EQ((std::map<std::string, std::string>(got.begin(), got.end())), want);
  EXPECT_EQ(got.size(), want.size());  // no name twice
}

TEST(RankEnvironment, WithoutGpusDeviceVisibilityIsLeftAlone) {
  RankEnvironmentInput input;
  for (const auto& [name, value] : RankEnvironment(input)) {
    EXPECT_NE(name, "CUDA_VISIBLE_DEVICES");
  }
}

}  // namespace
}  // namespace dsrun
