// dsrun where of real jobs: what it says of memory is what the ranks write later.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Of a job that runs: its ranks hold the optimizer's state of every element once, and each of them
// all parameters. After a rank was lost it is another generation's ranks; after the end there is
// the checkpoint alone.
TEST(WhereJob, OfAJobThatRuns_SaysWhichRankHoldsWhat) {
  const TemporaryFolder folder;
  Job job(Train({"--num_gpus=3"}, folder.path(), {"--train-iters", "1000000"}));
  ASSERT_TRUE(AwaitStep(job, folder.path(), 2)) << job.Words();
  const auto where = [](const std::string& of) {
    Job asked({"where", "--param", "wte.weight", of, "--json"});
    EXPECT_EQ(asked.AwaitExit(), 0) << asked.Words();
    return nlohmann::json::parse(asked.out(), nullptr, /*allow_exceptions=*/false);
  };
  const nlohmann::json first = where(job.run_dir());
  ASSERT_TRUE(first.contains("job")) << first;
  EXPECT_EQ(first["job"]["generation"], 1);
  EXPECT_EQ(first["job"]["ranks"], 3);
  EXPECT_EQ(first["job"]["state"], "running");
  EXPECT_FALSE(first.contains("tensors")) << "nothing is saved yet";
  ASSERT_EQ(first["job"]["tensors"].size(), 3u);
  for (const nlohmann::json& tensor : first["job"]["tensors"]) {
    int64_t held = 0;
    std::set<int64_t> ranks;
    for (const nlohmann::json& piece : tensor["pieces"]) {
      held += piece["end"].get<int64_t>() - piece["begin"].get<int64_t>();
      ranks.insert(piece["rank"].get<int64_t>());
      EXPECT_EQ(piece["slot"], piece["rank"]);
    }
    const int64_t size = tensor["shape"][0].get<int64_t>() * tensor["shape"][1].get<int64_t>();
    EXPECT_EQ(held, tensor["name"] == "model/wte.weight" ? 3 * size : size) << tensor["name"];
    if (tensor["name"] == "model/wte.weight") {
      EXPECT_THAT(ranks, ElementsAre(0, 1, 2));
    }
  }

  ASSERT_TRUE(SignalWorker(job, 1, SIGKILL));
  EXPECT_TRUE(Eventually([&] {
    const nlohmann::json now = where(job.run_dir());
    return now["job"]["generation"] == 2 && now["job"]["state"] == "running";
  })) << job.Words();
  job.Signal(SIGTERM);
  EXPECT_NE(job.AwaitExit(), -1) << job.Words();
  const nlohmann::json saved = where(folder.path() + "/save");
  EXPECT_FALSE(saved.contains("job")) << saved;
  ASSERT_EQ(saved["tensors"].size(), 3u) << saved;
  // Each rank has written what it was said to hold.
  const auto held = [](const nlohmann::json& tensor) {
    std::vector<std::vector<int64_t>> pieces;
    for (const nlohmann::json& piece : tensor["pieces"]) {
      pieces.push_back({piece["rank"], piece["begin"], piece["end"]});
    }
    return pieces;
  };
  for (const size_t slot : {1, 2}) {
    EXPECT_EQ(saved["tensors"][slot]["name"], first["job"]["tensors"][slot]["name"]);
    EXPECT_EQ(held(saved["tensors"][slot]), held(first["job"]["tensors"][slot]));
  }
}

TEST(WhereJob, OfAProgram_IsRefused) {
  Job job({"--num_gpus=2", UserProgram(), "wait"});
  ASSERT_TRUE(job.AwaitOutput("rank 1 waits")) << job.Words();
  Job asked({"where", "--param", "wte.weight", job.run_dir()});
  EXPECT_EQ(asked.AwaitExit(), 90) << asked.Words();
  EXPECT_THAT(asked.err(), HasSubstr("runs a program of its own"));
}

}  // namespace
}  // namespace dsrun
