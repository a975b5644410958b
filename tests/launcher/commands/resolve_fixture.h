// What the tests of Resolve stand on: a folder with files, and a machine that lives in it.

#ifndef DSRUN_TESTS_LAUNCHER_COMMANDS_RESOLVE_FIXTURE_H_
#define DSRUN_TESTS_LAUNCHER_COMMANDS_RESOLVE_FIXTURE_H_

#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "launcher/commands/command_line.h"
#include "launcher/commands/dry_run.h"
#include "launcher/commands/resolve.h"

namespace dsrun::launcher {

using Args = std::vector<std::string>;

// A folder with a text, a hostfile, an agent and a program; and a machine that lives in it.
class ResolveTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/resolve-XXXXXX";
    dir_ = std::filesystem::path(::mkdtemp(pattern.data())).lexically_normal().string();
    Write("text", std::string(1000, 'a'));
    Write("two.hosts", "127.0.0.1 slots=2\n127.0.0.2 slots=1\n");
    Write("dsagent", "", 0755);
    Write("prog", "", 0755);
    machine_.environment = {"PATH=" + dir_, "HOME=" + dir_ + "/home", "A=1"};
    machine_.working_dir = dir_;
    machine_.program_dir = dir_;
    machine_.user = "ada";
    machine_.cores = 8;
    machine_.memory_available = int64_t{8} << 30;
    machine_.isa = "avx2";
    machine_.now = absl::FromCivil(absl::CivilSecond(2026, 11, 21, 10, 15, 0), absl::UTCTimeZone());
    machine_.zone = absl::UTCTimeZone();
    machine_.random = 0xab1a2b3c;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, const std::string& text, mode_t mode = 0644) {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << text;
    ASSERT_EQ(::chmod((dir_ + "/" + name).c_str(), mode), 0);
  }

  Resolved Run(const Args& args) {
    findings_ = Findings();
    std::vector<std::string> notes;
    const CommandLine line = ParseCommandLine(args, findings_, notes);
    return Resolve(line, machine_, findings_);
  }
  Resolved Good(const Args& args) {
    Resolved resolved = Run(args);
    EXPECT_EQ(findings_.Render(), "");
    return resolved;
  }
  // The findings, with this test's folder as DIR.
  std::string Refused(const Args& args) {
    Run(args);
    return WithoutDir(findings_.Render());
  }
  std::string WithoutDir(std::string text) const {
    for (size_t at; (at = text.find(dir_)) != std::string::npos;)
      text.replace(at, dir_.size(), "DIR");
    return text;
  }

  std::string dir_;
  Machine machine_;
  Findings findings_;
};

// A training that is only resolved: what flags more than its text make of it.
class DryRunTest : public ResolveTest {
 protected:
  static Args With(const Args& more) {
    Args args = {"--dry-run", "train", "--data=text"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  proto::TrainSpec Spec(const Args& more) { return Good(With(more)).job.train(); }
  std::string Text(const Args& more) { return DryRunText(Good(With(more)), machine_); }
  std::string Json(const Args& more) { return DryRunJson(Good(With(more)), machine_); }
};

}  // namespace dsrun::launcher

#endif  // DSRUN_TESTS_LAUNCHER_COMMANDS_RESOLVE_FIXTURE_H_
