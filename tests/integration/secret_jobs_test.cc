// The cluster key and the job's token stand in no file that a job leaves and in nothing that it
// says. Both are taken from where they travel: two small scripts stand in for dsagent and dsworker,
// keep a copy of what the inherited descriptor holds, and go on as the real program. So these are
// the secrets of the job that is looked at, not some of the same kind.
//
// Looked for as they are, and as they would come out of a message that is printed, in hexadecimal
// and in base64. A secret that is changed in another way (a part of it, a hash) is not found.

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "proto/worker.pb.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

namespace fs = std::filesystem;

// Without the padding, which is not there in every kind.
std::string Base64(const std::string& secret) {
  std::string text = absl::Base64Escape(secret);
  while (!text.empty() && text.back() == '=') text.pop_back();
  return text;
}

std::vector<std::string> Forms(const std::string& secret) {
  const std::string hex = absl::BytesToHexString(secret);
  std::string web = absl::WebSafeBase64Escape(secret);  // has no padding
  return {secret,
          absl::CEscape(secret),
          absl::Utf8SafeCEscape(secret),
          hex,
          absl::AsciiStrToUpper(hex),
          absl::CHexEscape(secret),
          Base64(secret),
          std::move(web)};
}

// Which files of `folder` hold the secret in any form; `seen` counts those that were read.
std::vector<std::string> FilesWith(const std::string& secret, const std::string& folder,
                                   size_t& seen) {
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    ++seen;
    const std::string content = ReadWholeFile(entry.path());
    for (const std::string& form : Forms(secret)) {
      if (content.find(form) == std::string::npos) continue;
      found.push_back(entry.path());
      break;
    }
  }
  return found;
}

class SecretJob : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string worker = fs::path(DsagentBinary()).parent_path() / "dsworker";
    WriteScript("worker", "bootstrap.$$", worker, "");
    WriteScript("agent", "key", DsagentBinary(), " --worker-binary=" + Path("worker"));
  }

  // Descriptor 3 is where both programs are given their secret (kChildKeyFd, kBootstrapFd).
  void WriteScript(const std::string& name, const std::string& copy, const std::string& program,
                   const std::string& more) {
    std::ofstream(Path(name)) << "#!/bin/sh\ncopy=\"" << Path(copy) << "\"\n"
                              << "cat <&3 >\"$copy\"\n"
                              << "exec \"" << program << "\" \"$@\"" << more << " 3<\"$copy\"\n";
    fs::permissions(Path(name), fs::perms(0755));
  }

  std::string Path(const std::string& name) const { return secrets_.path() + "/" + name; }

  // The key, and the token that every worker was given.
  std::vector<std::string> Secrets() const {
    std::vector<std::string> secrets = {ReadWholeFile(Path("key"))};
    for (const auto& entry : fs::directory_iterator(secrets_.path())) {
      if (!entry.path().filename().string().starts_with("bootstrap.")) continue;
      proto::WorkerBootstrap bootstrap;
      EXPECT_TRUE(bootstrap.ParseFromString(ReadWholeFile(entry.path())));
      secrets.push_back(bootstrap.job_token());
    }
    return secrets;
  }

  // The job's folder has the run folder in it, and what dsrun and the ranks say.
  void ExpectNoneIn(const Job& job) {
    const std::vector<std::string> secrets = Secrets();
    EXPECT_GE(secrets.size(), 3u);
    for (const std::string& secret : secrets) {
      EXPECT_GE(secret.size(), 32u);
      size_t seen = 0;
      EXPECT_EQ(FilesWith(secret, job.folder(), seen), std::vector<std::string>());
      EXPECT_GE(seen, 8u);  // stdout, stderr, journal, metrics, two ranks' logs, agent's, manifest
      // The same look finds it where it is.
      EXPECT_FALSE(FilesWith(secret, secrets_.path(), seen).empty());
    }
  }

  TemporaryFolder secrets_;
  TemporaryFolder folder_;
};

TEST_F(SecretJob, KeyAndToken_AreInNoFileAndInNothingThatIsSaid) {
  // It ends when everything was looked at, which takes a while.
  Job job(Train({"--num_gpus=2"}, folder_.path(),
                {"--train-iters", "100000", "--save-interval", std::to_string(kSaveInterval)}),
          {.environment = {"GLOG_v=9"}, .folder = folder_.path(), .agent_binary = Path("agent")});
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSaveInterval + 1)) << job.Words();
  // Gone at the end: SQLite takes it into the journal.
  EXPECT_TRUE(fs::exists(job.run_dir() + "/journal.db-wal"));
  ExpectNoneIn(job);
  ASSERT_TRUE(SignalWorker(job, 1, SIGKILL));
  ASSERT_TRUE(job.AwaitError("recovered in")) << job.Words();
  job.Signal(SIGINT);
  ASSERT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_EQ(job.ReportJson()["incidents"].size(), 1u);
  ExpectNoneIn(job);
  EXPECT_TRUE(job.NothingIsLeft());
}

}  // namespace
}  // namespace dsrun
