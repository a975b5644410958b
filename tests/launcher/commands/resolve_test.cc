// What a command line becomes, or why not: one case for each flag that is resolved, so it is as
// long as the list of them.

#include "launcher/commands/resolve.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "common/base/units.h"
#include "common/config/source_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/commands/dry_run.h"
#include "launcher/commands/network.h"
#include "nlohmann/json.hpp"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

TEST_F(ResolveTest, TrainOnTwoNodes) {
  const Resolved r = Good({"-H", "two.hosts", "train", "--data", "text"});
  EXPECT_EQ(r.job.job_id(), "20261121-101500-1a2b3c");
  EXPECT_EQ(r.job.run_dir(), dir_ + "/runs/20261121-101500-1a2b3c");
  EXPECT_EQ(r.job.run_as_user(), "ada");
  ASSERT_EQ(r.job.nodes_size(), 2);
  EXPECT_EQ(r.job.nodes(1).address(), "127.0.0.2");
  EXPECT_EQ(r.job.nodes(1).slots_size(), 1);
  EXPECT_EQ(r.ranks.size(), 3u);
  const proto::TrainSpec& t = r.job.train();
  EXPECT_EQ(t.global_batch_size(), 32);
  EXPECT_EQ(t.micro_batch_size(), 4);
  EXPECT_EQ(t.micro_batches_per_atom(), 1);
  EXPECT_EQ(t.threads_per_rank(), 2);  // 8 cores, 3 ranks on this machine
  EXPECT_EQ(t.save_dir(), r.job.run_dir() + "/checkpoints");
  EXPECT_EQ(t.device(), "cpu");
  EXPECT_EQ(t.isa_cap(), "avx2");
  EXPECT_EQ(r.job.limits().max_restarts(), 100);
  EXPECT_EQ(r.job.limits().restart_window().seconds(), 24 * 3600);
  EXPECT_EQ(
      Good({"--restart-window=0s", "train", "--data=text"}).job.limits().restart_window().seconds(),
      0);
  EXPECT_EQ(r.job.limits().heartbeat_interval().nanos(), 500000000);
  EXPECT_EQ(r.job.environment_size(), 3);
  EXPECT_EQ(r.agent_binary, dir_ + "/dsagent");
  EXPECT_EQ(
      r.notes,
      (Args{"8 micro-batches a step do not share out evenly: 3 for ranks 0 to 1, 2 for rank 2",
            "no GPU on this machine: the CPU engine is used (avx2, 2 threads a rank)"}));
}

TEST_F(ResolveTest, WhatTheBatchBecomes_IsSaidWhereItIsNotAskedFor) {
  const auto first = [&](const Args& args) { return Good(args).notes.front(); };
  EXPECT_EQ(first({"train", "--data=text", "--global-batch-size=31"}),
            "a global batch of 31 is no whole number of micro-batches of 4 (the preset's): "
            "micro-batches of 1 are used; --micro-batch-size chooses another");
  EXPECT_EQ(first({"--num_gpus=4", "train", "--data=text", "--global-batch-size=22",
                   "--micro-batch-size=2"}),
            "11 micro-batches a step do not share out evenly: 3 for ranks 0 to 2, 2 for rank 3");
  // Nothing is said of what was asked for, or of what is even.
  for (const Args& args :
       {Args{"train", "--data=text", "--global-batch-size=31", "--micro-batch-size=1"},
        Args{"--num_gpus=2", "train", "--data=text", "--global-batch-size=6",
             "--gradient-accumulation-steps=1"},
        Args{"--num_gpus=4", "train", "--data=text"}}) {
    EXPECT_EQ(Good(args).notes.size(), 1u);
  }
}

TEST_F(ResolveTest, WithoutAHostfileThisMachineIsUsed) {
  const Resolved r = Good({"--num_gpus=2", "train", "--data", "text"});
  ASSERT_EQ(r.job.nodes_size(), 1);
  EXPECT_EQ(r.job.nodes(0).host(), "localhost");
  EXPECT_EQ(r.job.nodes(0).address(), "127.0.0.1");
  EXPECT_EQ(r.ranks.size(), 2u);
  EXPECT_EQ(Good({"train", "--data", "text"}).ranks.size(), 1u);
}

TEST_F(ResolveTest, AMissingHostfileIsAWarningOrWithStrictAnError) {
  const Resolved r = Good({"-H", "no.hosts", "./prog"});
  ASSERT_EQ(r.notes.size(), 1u);
  EXPECT_EQ(r.notes[0],
            "Unable to find hostfile, will proceed with training with local resources only. "
            "(no.hosts; --strict makes this an error)");
  EXPECT_EQ(Refused({"-H", "no.hosts", "--strict", "./prog"}),
            "--hostfile: there is no file \"no.hosts\"; check the path, or leave --strict out to "
            "use this machine\n");
  EXPECT_EQ(
      Refused({"--num_nodes=2", "./prog"}),
      "--num_nodes: Num nodes is >1 but no extra nodes available via hostfile; name the hosts "
      "with --hostfile\n");
}

TEST_F(ResolveTest, EverythingWrongIsFoundAtOnce) {
  Write("bad.hosts", "w1 slots=x\n");
  const std::string all =
      Refused({"-H", "bad.hosts", "--lease=1s", "--frob", "train", "--data", "nothing",
               "--model=gpt2-nanno", "--lr=fast", "--metrics=no/m.json"});
  // The model's and the text's own rooms word these two.
  const size_t begin = all.find("--model: ");
  const size_t data = all.find("--data: ");
  const size_t end = all.find("--lr: ");
  ASSERT_TRUE(begin < data && data < end && end != std::string::npos) << all;
  EXPECT_NE(all.find("gpt2-nano", begin), std::string::npos);
  EXPECT_NE(all.find("DIR/nothing", data), std::string::npos);
  EXPECT_EQ(all.substr(0, begin) + all.substr(end),
            "--frob: unknown flag; dsrun --help lists all\n"
            "bad.hosts:1:10: Hostfile contains a bad entry: w1 slots=x, unable to proceed with "
            "launching: slots must be a positive integer, got \"x\"\n"
            "  w1 slots=x\n"
            "           ^\n"
            "--lease: 1s must be longer than --node-silent-after (3s): else workers stop before "
            "their node is lost\n"
            "--lr: expected a number from 0 to 1e+06, got \"fast\"\n"
            "--metrics: there is no folder DIR/no; make it first\n");
}

// As after `rm -r` of it in another shell.
TEST_F(ResolveTest, WithoutACurrentFolder_ThatIsAllThatIsSaid) {
  machine_.working_dir = "";
  EXPECT_EQ(Refused({"--num_gpus=1", "train", "--data", dir_ + "/text", "--model", "gpt2-nano"}),
            "dsrun: the current folder is not there any more, or cannot be looked at; change to "
            "another one (cd)\n");
}

TEST_F(ResolveTest, DataMustBeTextAndLongEnough) {
  EXPECT_EQ(Refused({"train"}),
            "--data: is missing: name a file or folder of text to train on, such as --data "
            "/usr/share/common-licenses\n");
  Write("short", "abc");
  EXPECT_EQ(
      Refused({"train", "--data=short"}),
      "--data: expected at least 129 bytes of text (seq-length 128 and one to predict), got 3; "
      "add text or make --seq-length smaller\n");
  Write("binary", std::string("a\0b", 3));
  EXPECT_NE(Refused({"train", "--data=binary"}).find("DIR/binary"), std::string::npos);
  Write("empty", "");
  EXPECT_NE(Refused({"train", "--data=empty"}).find("DIR/empty"), std::string::npos);
}

TEST_F(ResolveTest, BatchAndWidth) {
  EXPECT_EQ(
      Refused({"-H", "two.hosts", "train", "--data=text", "--global-batch-size=30",
               "--micro-batch-size=4"}),
      "--global-batch-size: Check batch related parameters. train_batch_size is not equal to "
      "micro_batch_per_gpu * gradient_acc_step * world_size 30 != 4 * 2 * 3; the global batch "
      "must be a whole number of micro-batches; nearest that fit: --global-batch-size 28 or "
      "32, or --micro-batch-size 3\n");
  EXPECT_NE(Refused({"-H", "two.hosts", "train", "--data=text", "--global-batch-size=2",
                     "--micro-batch-size=1"}),
            "");
  EXPECT_EQ(Refused({"-H", "two.hosts", "train", "--data=text", "--micro-batches-per-atom=4"}),
            "--micro-batches-per-atom: data-parallel width 3 is more than the 2 atoms of 4 "
            "micro-batches that the global batch has; use at most 2 ranks, or fewer "
            "micro-batches-per-atom\n");
  const Resolved r = Good({"-H", "two.hosts", "train", "--data=text", "--global-batch-size=12",
                           "--micro-batch-size=1", "--micro-batches-per-atom=4"});
  EXPECT_EQ(r.job.train().micro_batches_per_atom(), 4);
}

TEST_F(ResolveTest, AModelThatCannotFitNamesWhatWould) {
  machine_.memory_available = int64_t{4} << 30;
  const std::string text = Refused({"--num_gpus=4", "train", "--data=text", "--model=gpt2-1558m",
                                    "--seq-length=128", "--global-batch-size=4"});
  EXPECT_NE(text.find("--model: custom does not fit: 4 ranks of up to "), std::string::npos)
      << text;
  EXPECT_NE(text.find("4.0 GiB are available; most of a rank's: "), std::string::npos) << text;
  EXPECT_NE(text.find("; fits: "), std::string::npos) << text;
  EXPECT_NE(text.find("--model gpt2-"), std::string::npos) << text;
  // A dry run shows its table all the same, and says what a start would say.
  const Resolved dry = Good({"--dry-run", "--num_gpus=4", "train", "--data=text",
                             "--model=gpt2-1558m", "--seq-length=128", "--global-batch-size=4"});
  EXPECT_EQ(dry.memory.size(), 4u);
  EXPECT_TRUE(std::any_of(dry.notes.begin(), dry.notes.end(), [](const std::string& note) {
    return note.starts_with("--model: a real start would be refused: custom does not fit: 4 ranks");
  }));
}

TEST_F(ResolveTest, OffLoopbackIsRefusedAndShownByADryRun) {
  Write("far.hosts", "192.0.2.1 slots=1\n");
  EXPECT_EQ(Refused({"-H", "far.hosts", "./prog"}),
            "far.hosts:1:1: 192.0.2.1 (192.0.2.1) is off loopback: refused until TLS exists; use "
            "addresses such as 127.0.0.1\n"
            "  192.0.2.1 slots=1\n"
            "  ^\n");
  Write("indented.hosts", "# two\n127.0.0.1 slots=1\n  no-such-host.invalid slots=1\n");
  EXPECT_THAT(Refused({"-H", "indented.hosts", "./prog"}),
              testing::AllOf(testing::StartsWith("indented.hosts:3:3: no-such-host.invalid has no "
                                                 "address ("),
                             testing::EndsWith("); check the name\n"
                                               "    no-such-host.invalid slots=1\n"
                                               "    ^\n")));
  const Resolved r = Good({"--dry-run", "-H", "far.hosts", "./prog"});
  ASSERT_EQ(r.notes.size(), 1u);
  EXPECT_EQ(r.notes[0].substr(0, 46), "far.hosts:1:1: a real start would be refused: ");
}

TEST_F(ResolveTest, PathsAreBytes) {
  EXPECT_EQ(Good({"--run-dir=caf\xe9", "./prog"}).job.run_dir(), dir_ + "/caf\xe9");
  const Resolved r = Good({"train", "--data=text", "--save=s\xff", "--metrics=m\xff"});
  EXPECT_EQ(r.job.train().save_dir(), dir_ + "/s\xff");
  EXPECT_EQ(r.job.train().metrics_path(), dir_ + "/m\xff");
}

TEST_F(ResolveTest, CudaIsRefusedWithoutAGpuEngine) {
  EXPECT_EQ(Refused({"train", "--data=text", "--device=cuda"}),
            "--device: cuda was asked for, but this build has no GPU engine (0 GPUs on this "
            "machine); use --device cpu or auto\n");
}

TEST_F(ResolveTest, Programs) {
  const Resolved r = Good({"--num_gpus=2", "prog", "", "$x", "\xff"});
  EXPECT_EQ(r.job.program().executable(), dir_ + "/prog");
  ASSERT_EQ(r.job.program().argv_size(), 4);
  EXPECT_EQ(r.job.program().argv(0), "prog");
  EXPECT_EQ(r.job.program().argv(3), "\xff");
  EXPECT_FALSE(r.job.program().append_local_rank());
  EXPECT_EQ(r.job.limits().max_restarts(), 0);
  Write("plain", "");
  Write("s.py", "");
  EXPECT_EQ(Refused({"./plain"}), "PROGRAM: \"./plain\" is not executable; chmod +x makes it so\n");
  EXPECT_EQ(Refused({"s.py"}),
            "PROGRAM: \"s.py\" is not executable; run it as `python3 -u s.py ...`\n");
  EXPECT_EQ(Refused({"./none"}), "PROGRAM: there is no file \"./none\"; check the path\n");
  EXPECT_EQ(Refused({"trian"}),
            "PROGRAM: there is no program \"trian\" in PATH; did you mean train?\n");
  EXPECT_EQ(Refused({"--agent-binary=nope", "./prog"}),
            "dsrun: expected the agent program at DIR/nope, but it is not there or not executable; "
            "run tools/build, or name it with --agent-binary PATH\n");
}

TEST_F(ResolveTest, EnvironmentFilesAddToTheEnvironment) {
  const auto value = [](const Resolved& r, const std::string& name) -> std::string {
    for (const proto::EnvVar& v : r.job.environment()) {
      if (v.name() == name) return v.value();
    }
    return "(none)";
  };
  std::filesystem::create_directory(dir_ + "/home");
  Write("home/.deepspeed_env", "B=home\nC=home\n");
  Write(".deepspeed_env", "export C=\"here $HOME\"\nA=2\n");
  const Resolved r = Good({"./prog"});
  EXPECT_EQ(value(r, "A"), "2");
  EXPECT_EQ(value(r, "B"), "home");
  EXPECT_EQ(value(r, "C"), "here $HOME");
  Write("mine", "D=4\n");
  const Resolved only = Good({"--env-file=mine", "./prog"});
  EXPECT_EQ(value(only, "D"), "4");
  EXPECT_EQ(value(only, "B"), "(none)");
  EXPECT_EQ(Refused({"--env-file=none", "./prog"}),
            "--env-file: there is no file \"none\"; check the path\n");
}

TEST_F(ResolveTest, EnvironmentFile_ThatIsNamedAndMissing_IsAnError) {
  EXPECT_EQ(Refused({"--env-file=text/x", "./prog"}),
            "--env-file: there is no file \"text/x\"; check the path\n");
  EXPECT_EQ(Refused({"--env-file=.", "./prog"}),
            "--env-file: \".\" is a folder, not a text file\n");
  machine_.environment.push_back("DS_ENV_FILE=none");
  EXPECT_EQ(Refused({"./prog"}),
            "DS_ENV_FILE: there is no file \"none\", neither in the home folder nor in this one; "
            "correct the variable or unset it\n");
  Write("mine", "D=4\n");
  Good({"--env-file=mine", "./prog"});  // says better than the variable
  machine_.environment.back() = "DS_ENV_FILE=" + dir_ + "/none";
  // This test's folder may be so long that its name is cut.
  EXPECT_EQ(Refused({"./prog"}),
            WithoutDir("DS_ENV_FILE: there is no file " + Quoted(dir_ + "/none") +
                       "; correct the variable or unset it\n"));
  machine_.environment.back() = "DS_ENV_FILE=" + dir_ + "/mine";
  EXPECT_EQ(Good({"./prog"}).job.environment().rbegin()[1].name(), "D");
  // One that nobody names may be missing, or be something else.
  machine_.environment.pop_back();
  std::filesystem::create_directory(dir_ + "/.deepspeed_env");
  Good({"./prog"});
}

TEST_F(ResolveTest, EnvironmentFileOfAHomeThatMayNotBeRead_IsLeftOutWithANote) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  std::filesystem::create_directory(dir_ + "/home");
  Write("home/.deepspeed_env", "B=home\n");
  std::filesystem::permissions(dir_ + "/home/.deepspeed_env", std::filesystem::perms::none);
  const Resolved r = Good({"./prog"});
  ASSERT_EQ(r.notes.size(), 1u);
  EXPECT_NE(r.notes[0].find("no environment file is read from there"), std::string::npos);
}

TEST_F(ResolveTest, EnvironmentFileAndHostfile_MayBePipes) {
  const auto pipe_with = [](const std::string& text) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    EXPECT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
    close(ends[1]);
    return ends[0];
  };
  const int env = pipe_with("D=4\n");
  const int hosts = pipe_with("127.0.0.1 slots=3\n");
  const Resolved r = Good({"--env-file=/proc/self/fd/" + std::to_string(env),
                           "-H/proc/self/fd/" + std::to_string(hosts), "./prog"});
  EXPECT_EQ(r.ranks.size(), 3u);
  EXPECT_EQ(std::count_if(r.job.environment().begin(), r.job.environment().end(),
                          [](const proto::EnvVar& v) { return v.name() == "D"; }),
            1);
  close(env);
  close(hosts);
}

// What cannot be looked for is not missing.
TEST_F(ResolveTest, HostfileThatCannotBeRead_IsAnErrorWithoutStrict) {
  std::filesystem::create_symlink("gone", dir_ + "/dangling");
  EXPECT_EQ(Refused({"-H", "dangling", "./prog"}),
            "--hostfile: \"dangling\" is a link to a file that is not there\n");
  EXPECT_EQ(Refused({"-H", ".", "./prog"}), "--hostfile: \".\" is a folder, not a text file\n");
}

TEST_F(ResolveTest, FiltersMeanTheSameWithoutAHostfile) {
  EXPECT_EQ(Refused({"--num_nodes=0", "./prog"}), "--num_nodes: expected 1 to 1, got 0\n");
  EXPECT_EQ(Refused({"--num_nodes=1", "--include=localhost:0", "./prog"}),
            "--num_nodes: Cannot specify num_nodes/gpus with include/exclude\n");
  EXPECT_EQ(Good({"--num_nodes=1", "./prog"}).ranks.size(), 1u);
  machine_.gpus = 2;
  machine_.environment.push_back("CUDA_VISIBLE_DEVICES=1");
  EXPECT_EQ(Refused({"--num_nodes=0", "./prog"}), "--num_nodes: expected 1 to 1, got 0\n");
}

TEST_F(ResolveTest, AnEmptyNameNamesNothing) {
  for (const std::string flag : {"--hostfile", "--run-dir", "--env-file", "--master_addr"}) {
    EXPECT_EQ(Refused({flag + "=", "./prog"}).substr(0, flag.size() + 11), flag + ": expected ");
    EXPECT_NE(WithoutDir(findings_.Render()).find("got an empty name"), std::string::npos) << flag;
  }
}

TEST_F(ResolveTest, LimitsAreJudgedTogether) {
  EXPECT_EQ(
      Refused({"--heartbeat-interval=2s", "--node-silent-after=700s", "./prog"}),
      "--node-silent-after: expected a duration such as 3s or 500ms, from 1s to 10m, got "
      "\"700s\"\n"
      "--node-silent-after: 3s is less than three heartbeats of 2s (--heartbeat-interval): one "
      "late message would look like a death; use at least 6s\n"
      "--worker-silent-after: 3s is less than three heartbeats of 2s (--heartbeat-interval): "
      "one late message would look like a death; use at least 6s\n"
      "--agent-stalled-after: 3s is less than three heartbeats of 2s (--heartbeat-interval): "
      "one late message would look like a death; use at least 6s\n");
}

TEST_F(ResolveTest, LimitsByClassOfOperation_HaveDefaultsFlagsAndBounds) {
  const proto::Limits defaults = Good({"train", "--data=text"}).job.limits();
  EXPECT_EQ(defaults.first_step_timeout().seconds(), 600);
  EXPECT_EQ(defaults.initialize_timeout().seconds(), 600);
  EXPECT_EQ(defaults.load_timeout().seconds(), 1800);
  EXPECT_EQ(defaults.save_timeout().seconds(), 1800);
  EXPECT_EQ(defaults.commit_timeout().seconds(), 600);
  EXPECT_EQ(defaults.prune_timeout().seconds(), 600);
  EXPECT_EQ(defaults.evaluation_timeout().seconds(), 600);
  const proto::Limits set =
      Good({"--first-step-timeout=11s", "--initialize-timeout=12s", "--load-timeout=13s",
            "--save-timeout=14s", "--commit-timeout=15s", "--prune-timeout=16s",
            "--evaluation-timeout=17s", "train", "--data=text"})
          .job.limits();
  EXPECT_EQ(set.first_step_timeout().seconds(), 11);
  EXPECT_EQ(set.initialize_timeout().seconds(), 12);
  EXPECT_EQ(set.load_timeout().seconds(), 13);
  EXPECT_EQ(set.save_timeout().seconds(), 14);
  EXPECT_EQ(set.commit_timeout().seconds(), 15);
  EXPECT_EQ(set.prune_timeout().seconds(), 16);
  EXPECT_EQ(set.evaluation_timeout().seconds(), 17);
  const std::string expected = "expected a duration such as 3s or 500ms, from 1s to 720h, got ";
  EXPECT_EQ(Refused({"--save-timeout=1e300", "--load-timeout=-3s", "--prune-timeout=inf",
                     "--first-step-timeout=0", "train", "--data=text"}),
            "--first-step-timeout: " + expected + "\"0\"\n--load-timeout: " + expected +
                "\"-3s\"\n--save-timeout: " + expected + "\"1e300\"\n--prune-timeout: " + expected +
                "\"inf\"\n");
}

// Whether it is free is for the agent of rank 0's node to find out, and to keep.
TEST_F(ResolveTest, MasterPort_IsAsGivenOrLeftToTheAgent) {
  EXPECT_EQ(Good({"./prog"}).job.master_port(), 0);
  EXPECT_EQ(Good({"--master_port=0", "./prog"}).job.master_port(), 0);
  EXPECT_EQ(Good({"--master_port=29777", "./prog"}).job.master_port(), 29777);
  EXPECT_EQ(Refused({"--master_port=65536", "./prog"}),
            "--master_port: expected an integer from 0 to 65535, got \"65536\"\n");
}

TEST_F(ResolveTest, GpusOfAProgramFollowCudaVisibleDevices) {
  machine_.gpus = 4;
  machine_.environment.push_back("CUDA_VISIBLE_DEVICES=3,1");
  const Resolved r = Good({"./prog"});
  ASSERT_EQ(r.job.nodes(0).slots_size(), 2);
  EXPECT_EQ(r.job.nodes(0).slots(0), 1);
  EXPECT_EQ(r.job.nodes(0).slots(1), 3);
  EXPECT_EQ(r.notes.front(), "Detected VISIBLE_DEVICES=3,1: setting --include=localhost:3,1");
}

TEST_F(ResolveTest, CudaVisibleDevices_AreReadOrRefused_NeverPassedOver) {
  machine_.gpus = 4;
  machine_.environment.push_back("CUDA_VISIBLE_DEVICES= 3 , 1");
  EXPECT_THAT(Good({"./prog"}).job.nodes(0).slots(), testing::ElementsAre(1, 3));
  machine_.environment.back() = "CUDA_VISIBLE_DEVICES=GPU-1a2b";
  EXPECT_EQ(
      Refused({"./prog"}),
      "CUDA_VISIBLE_DEVICES: expected device numbers such as 0,2, got \"GPU-1a2b\"; unset it, "
      "and name the devices by number: --include localhost:0,2\n");
  EXPECT_EQ(Good({"--num_gpus=2", "./prog"}).job.nodes(0).slots_size(), 2);
  machine_.environment.back() = "CUDA_VISIBLE_DEVICES=";
  EXPECT_THAT(Good({"./prog"}).notes,
              testing::Contains(
                  "CUDA_VISIBLE_DEVICES is empty, which counts as not set: every GPU is used"));
}

TEST_F(ResolveTest, SlotBeyondTheHostfiles_IsAGpuForTheAgentToFind) {
  const Args include = {"-H", "two.hosts", "--include", "127.0.0.1:1,7"};
  Args program = include;
  program.push_back("./prog");
  const Resolved r = Good(program);
  ASSERT_EQ(r.job.nodes_size(), 1);
  EXPECT_THAT(r.job.nodes(0).slots(), testing::ElementsAre(1, 7));
  EXPECT_EQ(r.job.nodes(0).hostfile_slots(), 2);
  const std::string note =
      "two.hosts:1:1: slot 7 of 127.0.0.1 is none of the hostfile's: a real start asks its agent "
      "for GPU 7";
  EXPECT_THAT(r.notes, testing::Not(testing::Contains(note)));
  program.insert(program.begin(), "--dry-run");
  EXPECT_THAT(Good(program).notes, testing::Contains(note));
  // The engine's slots are places on the CPU, and those are counted.
  Args train = include;
  train.insert(train.end(), {"train", "--data", "text"});
  EXPECT_EQ(Refused(train),
            "--include: No slot '7' specified on host '127.0.0.1'; it has slots 0-1 "
            "(two.hosts:1)\n  127.0.0.1:1,7\n              ^\n");
}

TEST_F(ResolveTest, ProgramsGetTorchrunsDefaultsWhereNothingIsSet) {
  const auto value = [](const Resolved& r, const std::string& name) -> std::string {
    std::string found = "unset";
    for (const proto::EnvVar& variable : r.job.environment()) {
      if (variable.name() != name) continue;
      EXPECT_EQ(found, "unset") << name << " twice";
      found = variable.value();
    }
    return found;
  };
  const Resolved shared = Good({"--num_gpus=2", "./prog"});
  EXPECT_EQ(value(shared, "OMP_NUM_THREADS"), "1");
  EXPECT_EQ(value(shared, "TORCH_NCCL_ASYNC_ERROR_HANDLING"), "1");
  EXPECT_EQ(shared.notes.back(),
            "OMP_NUM_THREADS is not set, and ranks share a node: every rank gets "
            "OMP_NUM_THREADS=1, as under torchrun; set it to what is best for your program");
  const Resolved alone = Good({"./prog"});
  EXPECT_EQ(value(alone, "OMP_NUM_THREADS"), "unset");
  EXPECT_EQ(value(alone, "TORCH_NCCL_ASYNC_ERROR_HANDLING"), "1");
  EXPECT_EQ(value(Good({"--num_gpus=2", "train", "--data=text"}), "OMP_NUM_THREADS"), "unset");

  // What the user says stands: in the environment, or in a file.
  machine_.environment.push_back("OMP_NUM_THREADS=");
  Write("env", "TORCH_NCCL_ASYNC_ERROR_HANDLING=3\n");
  const Resolved own = Good({"--num_gpus=2", "--env-file=env", "./prog"});
  EXPECT_EQ(value(own, "OMP_NUM_THREADS"), "");
  EXPECT_EQ(value(own, "TORCH_NCCL_ASYNC_ERROR_HANDLING"), "3");
  for (const std::string& note : own.notes) {
    EXPECT_THAT(note, testing::Not(testing::HasSubstr("OMP_NUM_THREADS")));
  }
}

TEST_F(ResolveTest, DryRunOfAProgramAsText) {
  const Resolved r = Good({"--dry-run", "-H", "two.hosts", "./prog", "a b"});
  const std::string common =
      "  all ranks: WORLD_SIZE=3 CROSS_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=picked "
      "GROUP_WORLD_SIZE=2 ROLE_WORLD_SIZE=3 ROLE_NAME=default TORCHELASTIC_RESTART_COUNT=0 "
      "TORCHELASTIC_MAX_RESTARTS=0 TORCHELASTIC_RUN_ID=20261121-101500-1a2b3c "
      "TORCHELASTIC_USE_AGENT_STORE=False\n";
  const auto error_file = [](const std::string& place) {
    return "TORCHELASTIC_ERROR_FILE=DIR/runs/20261121-101500-1a2b3c/logs/" + place +
           ".gen-1.error.json\n";
  };
  EXPECT_EQ(
      WithoutDir(DryRunText(r, machine_)),
      "job 20261121-101500-1a2b3c: 3 ranks on 2 nodes, as user ada (dry run: nothing is started)\n"
      "  program       DIR/prog\n"
      "  argv[0]       \"./prog\"\n"
      "  argv[1]       \"a b\"\n"
      "  run folder    DIR/runs/20261121-101500-1a2b3c\n"
      "  works in      DIR\n"
      "\n"
      "Ranks\n"
      "  rank  node       address    agent port  slot  local  tp  cp  ep  dp  pp\n"
      "     0  127.0.0.1  127.0.0.1  picked         0      0   0   0   0   0   0\n"
      "     1  127.0.0.1  127.0.0.1  picked         1      1   0   0   0   1   0\n"
      "     2  127.0.0.2  127.0.0.2  picked         0      0   0   0   0   2   0\n"
      "\n"
      "Environment, besides 5 variables that are handed on\n" +
          common +
          "  rank 0: RANK=0 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 LOCAL_SIZE=2 CROSS_RANK=0 NODE_RANK=0 "
          "GROUP_RANK=0 ROLE_RANK=0 " +
          error_file("127.0.0.1/rank-0") +
          "  rank 1: RANK=1 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 LOCAL_SIZE=2 CROSS_RANK=0 NODE_RANK=0 "
          "GROUP_RANK=0 ROLE_RANK=1 " +
          error_file("127.0.0.1/rank-1") +
          "  rank 2: RANK=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 LOCAL_SIZE=1 CROSS_RANK=1 NODE_RANK=1 "
          "GROUP_RANK=1 ROLE_RANK=2 " +
          error_file("127.0.0.2/rank-2"));
}

TEST_F(ResolveTest, DryRunOfTrainShowsBatchAndMemory) {
  const Resolved r = Good({"--dry-run", "-H", "two.hosts", "train", "--data=text"});
  const std::string text = WithoutDir(DryRunText(r, machine_));
  EXPECT_NE(text.find("  batch         32 sequences a step = 8 micro-batches of 4\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("Memory by plan\n"), std::string::npos);
  const auto json = nlohmann::json::parse(DryRunJson(r, machine_));
  ASSERT_EQ(json["ranks"].size(), 3u);
  EXPECT_EQ(json["ranks"][2]["environment"]["RANK"], "2");
  EXPECT_EQ(json["ranks"][1]["dp"], 1);
  EXPECT_EQ(json["train"]["global_batch_size"], 32);
  const auto& memory = json["ranks"][0]["memory_bytes"];
  EXPECT_EQ(memory["total"].get<int64_t>() - memory["libraries"].get<int64_t>(),
            r.memory[0].total_bytes());
  int64_t lines = 0;
  for (const auto& line : json["memory_of_rank_0"]) lines += line["bytes"].get<int64_t>();
  EXPECT_EQ(lines, memory["total"]);
  EXPECT_THAT(text, testing::HasSubstr(" of the device, "));
  EXPECT_GT(r.memory[0].total_bytes(), 0);
}

// 2^31 sequences are a legal number, and times a sequence and a layer more than 64 bits count.
TEST_F(ResolveTest, MicroBatchBeyondCounting_IsOneFinding) {
  const std::string why =
      Refused({"train", "--data=text", "--model=gpt2-1558m", "--seq-length=1048576",
               "--micro-batch-size=1073741824", "--global-batch-size=1073741824"});
  EXPECT_THAT(why, testing::HasSubstr("--micro-batch-size: a micro-batch of 1073741824 sequences"));
  EXPECT_THAT(why, testing::HasSubstr("more than an exabyte"));
}

TEST(Units, NumbersForPeople) {
  EXPECT_EQ(BytesText(512), "512 B");
  EXPECT_EQ(BytesText(1536), "1.5 KiB");
  EXPECT_EQ(BytesText(int64_t{24} << 30), "24.0 GiB");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(1853568), "1,853,568");
  EXPECT_EQ(CountText(-1234), "-1,234");
}

}  // namespace
}  // namespace dsrun::launcher
