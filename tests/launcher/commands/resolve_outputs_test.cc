// What --metrics and --trace would write over.

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;

class ResolveOutputsTest : public ResolveTest {
 protected:
  Args Train(const std::string& flag, const std::string& file) const {
    return {"train", "--data", "text", flag, file};
  }
  std::string Size(const std::string& name) const {
    return std::to_string(std::filesystem::file_size(dir_ + "/" + name));
  }
};

TEST_F(ResolveOutputsTest, TheTrainingText_IsNotWrittenOver) {
  for (const std::string flag : {"--metrics", "--trace"}) {
    EXPECT_EQ(Refused(Train(flag, "text")),
              flag +
                  ": DIR/text is a text of --data, which would be written over; name "
                  "another file, or move that one away\n");
  }
  ASSERT_EQ(symlink("text", (dir_ + "/link").c_str()), 0);
  std::filesystem::create_hard_link(dir_ + "/text", dir_ + "/hard");
  for (const std::string name : {"link", "hard"}) {
    EXPECT_EQ(Refused(Train("--metrics", name)),
              "--metrics: DIR/" + name +
                  " is a text of --data (DIR/text), which would be written over; name another "
                  "file, or move that one away\n");
  }
  EXPECT_EQ(Size("text"), "1000");
}

TEST_F(ResolveOutputsTest, OtherInputsAndTheJobsOwnFiles_AreNotWrittenOver) {
  Args args = Train("--metrics", "two.hosts");
  args.insert(args.end(), {"--hostfile", "two.hosts"});
  EXPECT_THAT(Refused(args), HasSubstr("DIR/two.hosts is the file of --hostfile, which"));
  args = Train("--metrics", "r/report.json");
  args.insert(args.end(), {"--run-dir", "r"});
  std::filesystem::create_directory(dir_ + "/r");
  EXPECT_THAT(Refused(args), HasSubstr("is a file that the job writes itself, which"));
  args = Train("--metrics", "one");
  args.insert(args.end(), {"--trace", "./one"});
  EXPECT_THAT(Refused(args), HasSubstr("--trace: DIR/one is the file of --metrics, which"));
}

TEST_F(ResolveOutputsTest, WhatNoJobHasWritten_IsNotWrittenOver) {
  Write("thesis", "Chapter 1\n");
  EXPECT_EQ(Refused(Train("--metrics", "thesis")),
            "--metrics: DIR/thesis holds 10 bytes that are no metrics of an earlier job; name "
            "another file, or move that one away\n");
  EXPECT_THAT(Refused(Train("--trace", "thesis")), HasSubstr("that are no trace of an earlier"));
  std::filesystem::create_directory(dir_ + "/r");
  Write("r/metrics.jsonl", "mine\n");  // where they go if nothing is said
  EXPECT_THAT(Refused(Train("--run-dir", "r")), HasSubstr("DIR/r/metrics.jsonl holds 5 bytes"));
}

TEST_F(ResolveOutputsTest, NewAndEmptyFilesDevicesAndThoseOfEarlierJobs_AreTaken) {
  Write("empty", "");
  Write("metrics", "{\"step\":1,\"loss\":2}\n");
  Write("trace", "[{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":0}]\n");
  for (const std::string name : {"new", "empty", "metrics", "/dev/null"}) {
    Good(Train("--metrics", name));
  }
  Good(Train("--trace", "trace"));
  EXPECT_THAT(Refused(Train("--trace", "metrics")), HasSubstr("that are no trace"));
  // It is put there by a rename: root's /dev/null would be a file from then on.
  EXPECT_THAT(Refused(Train("--trace", "/dev/null")), HasSubstr("is a device, pipe or socket"));
}

// A restart would find it in its text, and end the job.
TEST_F(ResolveOutputsTest, NewFileInAFolderOfTheText_IsRefused) {
  std::filesystem::create_directories(dir_ + "/texts/deep");
  Write("texts/one", std::string(1000, 'x'));
  const auto refused = [this](const std::string& flag, const std::string& path) {
    return Refused({"train", "--data", "texts", flag, path});
  };
  for (const std::string flag : {"--metrics", "--trace"}) {
    EXPECT_EQ(refused(flag, "texts/deep/new"),
              flag +
                  ": DIR/texts/deep/new is inside DIR/texts of --data, so it would be read as "
                  "text when a rank starts again; name a place outside of it\n");
  }
  EXPECT_THAT(refused("--save", "texts/save"), HasSubstr("--save: DIR/texts/save is inside"));
  EXPECT_THAT(refused("--run-dir", "texts/run"), HasSubstr("--run-dir: DIR/texts/run is inside"));
  Good({"train", "--data", "texts", "--metrics", "texts.jsonl"});
  Good({"train", "--data", "texts/one", "--metrics", "texts/new"});  // one file alone is the text
}

TEST_F(ResolveOutputsTest, FolderOfTheTextBehindALink_IsOneToo) {
  std::filesystem::create_directories(dir_ + "/texts");
  std::filesystem::create_directories(dir_ + "/elsewhere");
  Write("elsewhere/one", std::string(1000, 'x'));
  ASSERT_EQ(symlink("../elsewhere", (dir_ + "/texts/link").c_str()), 0);
  ASSERT_EQ(symlink("texts", (dir_ + "/other").c_str()), 0);
  for (const std::string name : {"elsewhere/new", "texts/link/new", "other/new"}) {
    EXPECT_THAT(Refused({"train", "--data", "texts", "--metrics", name}),
                HasSubstr("is inside DIR/texts of --data"));
  }
}

}  // namespace
}  // namespace dsrun::launcher
