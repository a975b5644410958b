#include "worker/api/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace dsrun {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Config> Parse(std::vector<const char*> flags, const std::vector<OwnFlag>& own = {}) {
  flags.insert(flags.begin(), "program");
  return Config::FromFlags(static_cast<int>(flags.size()), flags.data(), own);
}

TEST(ConfigFlags, EveryFlag_SetsItsField) {
  const auto config = Parse({"--zero-stage=3",
                             "--global-batch-size",
                             "64",
                             "--micro-batch-size",
                             "8",
                             "--micro-batches-per-atom",
                             "2",
                             "--train-iters",
                             "50",
                             "--seed",
                             "18446744073709551615",
                             "--lr",
                             "1e-2",
                             "--min-lr",
                             "1e-3",
                             "--lr-warmup-iters",
                             "5",
                             "--lr-schedule",
                             "cosine",
                             "--lr-schedule-param",
                             "a=1",
                             "--optimizer",
                             "sgd",
                             "--optimizer-param",
                             "momentum=0.9,nesterov=1",
                             "--weight-decay",
                             "0.2",
                             "--clip-grad",
                             "0",
                             "--hidden-dropout",
                             "0.1",
                             "--attention-dropout",
                             "0.2",
                             "--sums",
                             "fast",
                             "--precision",
                             "fp32",
                             "--bucket-bytes",
                             "8192",
                             "--threads-per-rank",
                             "2",
                             "--overlap",
                             "off",
                             "--shared-memory",
                             "off",
                             "--isa-cap",
                             "avx2",
                             "--check-collectives",
                             "always",
                             "--accept-fingerprint",
                             "on",
                             "--zero3-prefetch",
                             "7",
                             "--zero3-persistence-threshold",
                             "9",
                             "--keep-last",
                             "4",
                             "--keep-every",
                             "100",
                             "--join-timeout",
                             "5s",
                             "--collective-timeout",
                             "2m",
                             "--save-timeout",
                             "1h"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->zero_stage, 3);
  EXPECT_EQ(config->global_batch_size, 64);
  EXPECT_EQ(config->micro_batch_size, 8);
  EXPECT_EQ(config->micro_batches_per_atom, 2);
  EXPECT_EQ(config->train_iters, 50);
  EXPECT_EQ(config->seed, 18446744073709551615u);
  EXPECT_EQ(config->lr, 1e-2);
  EXPECT_EQ(config->min_lr, 1e-3);
  EXPECT_EQ(config->lr_warmup_iters, 5);
  EXPECT_EQ(config->lr_schedule, "cosine");
  EXPECT_EQ(config->lr_schedule_params.at("a"), 1);
  EXPECT_EQ(config->optimizer, "sgd");
  EXPECT_EQ(config->optimizer_params.at("momentum"), 0.9);
  EXPECT_EQ(config->optimizer_params.at("nesterov"), 1);
  EXPECT_EQ(config->weight_decay, 0.2);
  EXPECT_EQ(config->clip_grad, 0);
  EXPECT_EQ(config->hidden_dropout, 0.1);
  EXPECT_EQ(config->attention_dropout, 0.2);
  EXPECT_EQ(config->sums, "fast");
  EXPECT_EQ(config->bucket_bytes, 8192);
  EXPECT_EQ(config->threads_per_rank, 2);
  EXPECT_FALSE(config->overlap);
  EXPECT_FALSE(config->shared_memory);
  EXPECT_EQ(config->isa_cap, "avx2");
  EXPECT_EQ(config->check_collectives, "always");
  EXPECT_TRUE(config->accept_fingerprint);
  EXPECT_EQ(config->zero3_prefetch, 7);
  EXPECT_EQ(config->zero3_persistence_threshold, 9);
  EXPECT_EQ(config->keep_last, 4);
  EXPECT_EQ(config->keep_every, 100);
  EXPECT_EQ(config->join_timeout, absl::Seconds(5));
  EXPECT_EQ(config->collective_timeout, absl::Minutes(2));
  EXPECT_EQ(config->save_timeout, absl::Hours(1));
  EXPECT_TRUE(config->Check().ok()) << config->Check();
}

TEST(ConfigFlags, FlagsOfTheProgram_StandBesideThem) {
  std::string folder;
  int64_t hidden = 3;
  const std::vector<OwnFlag> own = {OwnFlag::Text("save", "folder", &folder),
                                    OwnFlag::Number("hidden", "units", 1, &hidden)};
  ASSERT_TRUE(Parse({"--save=a b=c", "--hidden", "5"}, own).ok());
  EXPECT_EQ(folder, "a b=c");
  EXPECT_EQ(hidden, 5);
  EXPECT_EQ(Parse({"--hidden", "0"}, own).status().message(),
            "--hidden: expected a whole number from 1 on, got \"0\"");
  EXPECT_THAT(std::string(Parse({}, {OwnFlag::Text("lr", "", &folder)}).status().message()),
              HasSubstr("--lr: the engine has a flag of this name"));
}

TEST(ConfigFlags, ListsOfParameters_AddUp) {
  const auto config = Parse(
      {"--optimizer-param", "beta1=0.8", "--optimizer-param=eps=1e-6", "--join-timeout", "9"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->optimizer_params,
            (std::map<std::string, double>{{"beta1", 0.8}, {"eps", 1e-6}}));
  EXPECT_EQ(config->join_timeout, absl::Seconds(9));
}

TEST(ConfigFlags, WhatIsNone_IsOneMessage) {
  struct Case {
    std::vector<const char*> flags;
    std::string message;
  };
  for (const Case& one : {
           Case{{"--zero", "1"}, "there is no flag \"--zero\"; --help lists those that there are"},
           Case{{"zero-stage"},
                "there is no flag \"zero-stage\"; --help lists those that there are"},
           Case{{"--lr"}, "--lr: expected X behind it, got nothing"},
           Case{{"--lr", "1", "--lr=2"}, "--lr is given twice"},
           Case{{"--lr", "fast"}, "--lr: expected a number, got \"fast\""},
           Case{{"--train-iters", "1e3"}, "--train-iters: expected a whole number, got \"1e3\""},
           Case{{"--overlap", "yes"}, "--overlap: expected on or off, got \"yes\""},
           Case{{"--save-timeout", "soon"},
                "--save-timeout: expected a time such as 90s or 10m, got \"soon\""},
           Case{{"--optimizer-param", "eps"},
                "--optimizer-param: expected KEY=X, X a number, got \"eps\""},
       }) {
    const absl::Status status = Parse(one.flags).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), one.message);
  }
}

TEST(ConfigFlags, Help_IsPrintedWithBothKinds) {
  std::string folder;
  testing::internal::CaptureStdout();
  const auto config = Parse({"--help"}, {OwnFlag::Text("save", "folder of checkpoints", &folder)});
  const std::string out = testing::internal::GetCapturedStdout();
  ASSERT_TRUE(config.ok());
  EXPECT_TRUE(config->help);
  EXPECT_THAT(out, HasSubstr("usage: dsrun --num-gpus N program"));
  EXPECT_THAT(out, HasSubstr("--save TEXT"));
  EXPECT_THAT(out, HasSubstr("--zero-stage N"));
}

TEST(ConfigCheck, EveryBound_IsOneMessageWithTheFlag) {
  struct Case {
    std::function<void(Config&)> set;
    std::string message;
  };
  for (const Case& one : {
           Case{[](Config& c) { c.global_batch_size = 30; },
                "--global-batch-size: expected a multiple of --micro-batch-size 4, got 30"},
           Case{[](Config& c) { c.micro_batch_size = 0; }, "--micro-batch-size: expected a number"},
           Case{[](Config& c) { c.train_iters = 0; }, "--train-iters: expected a number from 1"},
           Case{[](Config& c) { c.lr = -1; }, "--lr: expected a number from 0 on, got -1"},
           Case{[](Config& c) {
                  c.lr_schedule = "WarmupLR";
                  c.min_lr = 1e-5;
                },
                "--min-lr: --lr-schedule WarmupLR has none"},
           Case{[](Config& c) {
                  c.lr_schedule = "OneCycle";
                  c.lr_warmup_iters = 3;
                },
                "--lr-warmup-iters: --lr-schedule OneCycle has none"},
           Case{[](Config& c) { c.hidden_dropout = 1; },
                "--hidden-dropout: expected 0, or a rate from 2^-32 to 1 - 2^-16, got 1"},
           Case{[](Config& c) { c.attention_dropout = -0.5; },
                "--attention-dropout: expected 0, or a rate from 2^-32 to 1 - 2^-16, got -0.5"},
           Case{[](Config& c) { c.optimizer = "adm"; }, "--optimizer: "},
           Case{[](Config& c) { c.optimizer = "muon"; }, "--optimizer: expected another than muon"},
           Case{[](Config& c) { c.optimizer_params["beta1"] = 2; }, "--optimizer: "},
           Case{[](Config& c) { c.zero_stage = 4; }, "--zero-stage: expected 0, 1, 2 or 3, got 4"},
           Case{[](Config& c) { c.zero_stage = int64_t{1} << 32; }, "--zero-stage: "},
           Case{[](Config& c) { c.precision = "fp16"; }, "--precision: expected fp32, got"},
           Case{[](Config& c) { c.sums = "slow"; }, "--sums: expected exact, fast, got \"slow\""},
           Case{[](Config& c) { c.bucket_bytes = 1; }, "--bucket-bytes: expected a number from"},
           Case{[](Config& c) { c.isa_cap = "sse"; }, "--isa-cap: expected avx512"},
           Case{[](Config& c) { c.keep_last = 0; }, "--keep-last: expected a number from 1"},
           Case{[](Config& c) { c.join_timeout = absl::ZeroDuration(); },
                "--join-timeout: expected more than no time"},
       }) {
    Config config;
    ASSERT_TRUE(config.Check().ok()) << config.Check();
    one.set(config);
    EXPECT_EQ(config.Check().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(config.Check().message()), testing::StartsWith(one.message));
  }
}

}  // namespace
}  // namespace dsrun
