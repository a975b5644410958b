// DeepSpeed's JSON as flags: what becomes of each key, what is told, and where a finding points.

#include "launcher/commands/deepspeed_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "launcher/commands/config_file.h"
#include "launcher/commands/deepspeed_keys.h"
#include "launcher/commands/options.h"
#include "tests/launcher/commands/resolve_fixture.h"

namespace dsrun::launcher {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// As the configuration tutorials of DeepSpeed and Hugging Face have it.
constexpr char kGuide[] = R"({
  "train_batch_size": 16,
  "train_micro_batch_size_per_gpu": 4,
  "steps_per_print": 5,
  "optimizer": {
    "type": "AdamW",
    "params": {"lr": 3e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.05},
  },
  // warmed up
  "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10, "warmup_type": "linear"}},
  "gradient_clipping": 0.5,
  "bf16": {"enabled": true},
  "zero_optimization": {
    "stage": 3,
    "overlap_comm": false,
    "contiguous_gradients": true,
    "reduce_bucket_size": 1e5,
    "stage3_prefetch_bucket_size": 5e4,
    "stage3_max_live_parameters": 1e9,
    "sub_group_size": 1e9,
    "offload_optimizer": {"device": "none"}
  },
  "wall_clock_breakdown": false
})";

class DeepSpeedConfigTest : public ResolveTest {
 protected:
  // The job of `json` and `more` flags; notes_ and findings_ are set.
  Resolved With(const std::string& json, const Args& more = {}) {
    Write("ds.json", json);
    Args args = {"--dry-run", "train", "--data=text", "--deepspeed_config=" + dir_ + "/ds.json"};
    args.insert(args.end(), more.begin(), more.end());
    return Taken(args);
  }
  Resolved Taken(const Args& args) {
    findings_ = Findings();
    notes_.clear();
    CommandLine line = ParseCommandLine(args, findings_, notes_);
    const std::optional<ConfigFile> config = ConfigFile::Take(line, findings_, notes_);
    Resolved resolved = Resolve(line, machine_, findings_);
    if (config) findings_ = config->PointedInto(findings_);
    for (std::string& note : notes_) note = WithoutDir(note);
    return resolved;
  }
  proto::TrainSpec Good(const std::string& json, const Args& more = {}) {
    const Resolved resolved = With(json, more);
    EXPECT_EQ(findings_.Render(), "");
    return resolved.job.train();
  }
  std::vector<std::string> Headlines(const std::string& json, const Args& more = {}) {
    With(json, more);
    std::vector<std::string> headlines;
    for (const Diagnostic& one : findings_.errors()) {
      headlines.push_back(WithoutDir(one.Headline()));
    }
    return headlines;
  }

  std::vector<std::string> notes_;
};

TEST_F(DeepSpeedConfigTest, AGuidesFile_IsTheJobThatItSays) {
  const proto::TrainSpec spec = Good(kGuide);
  EXPECT_EQ(spec.global_batch_size(), 16);
  EXPECT_EQ(spec.micro_batch_size(), 4);
  EXPECT_EQ(spec.log_interval(), 5);
  EXPECT_EQ(spec.optimizer().name(), "adamw");
  EXPECT_EQ(spec.lr(), 3e-4);
  EXPECT_EQ(spec.adam_beta1(), 0.9);
  EXPECT_EQ(spec.adam_beta2(), 0.95);
  EXPECT_EQ(spec.weight_decay(), 0.05);
  EXPECT_EQ(spec.lr_schedule().name(), "WarmupLR");
  EXPECT_EQ(spec.lr_schedule().params().at("warmup_num_steps"), 10);
  EXPECT_EQ(spec.lr_schedule().params().at("warmup_max_lr"), 3e-4);
  EXPECT_EQ(spec.clip_grad(), 0.5);
  EXPECT_EQ(spec.precision(), "bf16");
  EXPECT_EQ(spec.zero_stage(), 3);
  EXPECT_FALSE(spec.overlap_comm());
  EXPECT_EQ(spec.bucket_bytes(), 400'000);
  EXPECT_EQ(spec.zero().prefetch(), 50'000);
  EXPECT_THAT(notes_, Not(Contains(HasSubstr("has no effect"))));
}

TEST_F(DeepSpeedConfigTest, WhatIsLeftOut_IsDeepSpeedsDefault_AndTold) {
  const proto::TrainSpec spec =
      Good(R"({"train_batch_size": 8, "optimizer": {"type": "Adam", "params": {}}})");
  EXPECT_EQ(spec.global_batch_size(), 8);
  EXPECT_EQ(spec.micro_batch_size(), 8);  // one step of accumulation
  EXPECT_EQ(spec.optimizer().name(), "adamw");
  EXPECT_EQ(spec.lr(), 1e-3);
  EXPECT_EQ(spec.weight_decay(), 0);
  EXPECT_EQ(spec.adam_beta2(), 0.999);
  EXPECT_EQ(spec.lr_schedule().name(), "constant");
  EXPECT_EQ(spec.zero_stage(), 0);
  EXPECT_THAT(notes_, Contains("--weight-decay=0 from optimizer.params.weight_decay, which "
                               "DIR/ds.json leaves to DeepSpeed's default"));
  EXPECT_EQ(Good(R"({"train_micro_batch_size_per_gpu": 2})").global_batch_size(), 2);
  EXPECT_EQ(Good(R"({"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3})")
                .global_batch_size(),
            6);
}

TEST_F(DeepSpeedConfigTest, Auto_IsAsIfItWereLeftToUs) {
  const proto::TrainSpec spec = Good(R"({
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "weight_decay": "auto"}},
    "fp16": {"enabled": "auto"}, "gradient_clipping": "auto",
    "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}})");
  EXPECT_EQ(spec.adam_beta2(), 0.95);
  EXPECT_EQ(spec.precision(), "fp32");
  EXPECT_EQ(spec.zero_stage(), 2);
}

TEST_F(DeepSpeedConfigTest, Flags_Win_AndBothAreTold) {
  const proto::TrainSpec spec = Good(
      kGuide, {"--lr=1e-3", "--zero-stage=1", "--overlap", "--zero3-prefetch=7", "--zero-stage=3"});
  EXPECT_EQ(spec.lr(), 1e-3);
  EXPECT_TRUE(spec.overlap_comm());
  EXPECT_EQ(spec.zero().prefetch(), 7);
  EXPECT_THAT(notes_,
              Contains("--lr=1e-3 replaces --lr=3e-4 from optimizer.params.lr (DIR/ds.json:7)"));
  EXPECT_THAT(notes_, Contains(HasSubstr("--overlap replaces --no-overlap from "
                                         "zero_optimization.overlap_comm (DIR/ds.json:15)")));
  EXPECT_EQ(Good(kGuide, {"--optimizer=lion"}).optimizer().params().at("beta2"), 0.99);
  EXPECT_EQ(Good(kGuide, {"--optimizer-param=beta2=0.9"}).adam_beta2(), 0.9);
  EXPECT_EQ(Good(R"({"train_batch_size": 8})", {"--micro-batch-size=2"}).micro_batch_size(), 2);
}

TEST_F(DeepSpeedConfigTest, Mistakes_AreFoundAtOnce_WhereTheyStand) {
  EXPECT_THAT(
      Headlines(R"({
  "train_batch_sise": 16,
  "zero_optimization": {"stage": "3", "overlap_com": true},
  "optimizer": {"type": "OneBitAdam"},
  "fp16": {"enabled": 1}
})"),
      ElementsAre("DIR/ds.json:2:3: DeepSpeed has no key \"train_batch_sise\"; did you mean "
                  "train_batch_size? (--allow-unknown-config-keys passes over it)",
                  "DIR/ds.json:3:34: zero_optimization.stage: expected a whole number, got "
                  "\"3\"",
                  "DIR/ds.json:3:39: DeepSpeed has no key \"overlap_com\" in "
                  "zero_optimization; did you mean overlap_comm? "
                  "(--allow-unknown-config-keys passes over it)",
                  "DIR/ds.json:5:23: fp16.enabled: expected true or false, got 1",
                  "DIR/ds.json:4:25: optimizer.type: expected one of adamw, adam, lion, "
                  "lamb, adagrad, sgd, muon, got \"OneBitAdam\" (which DeepSpeed removed "
                  "after 0.19.6)"));
  Good(R"({"train_batch_sise": 16})", {"--allow-unknown-config-keys"});
  EXPECT_THAT(notes_, Contains(HasSubstr("DIR/ds.json:1:2: DeepSpeed has no key")));
  EXPECT_THAT(Headlines(R"({"optimizer": {"type": "AdamW", "params": {"betas": 0.9, "lrr": 1,
    "max_grad_norm": 1, "amsgrad": true}}})"),
              ElementsAre(HasSubstr("expected a list of two numbers, got 0.9"),
                          HasSubstr("adamw has no parameter \"lrr\"; did you mean lr?"),
                          HasSubstr("write gradient_clipping"),
                          HasSubstr("optimizer.params.amsgrad: expected false, got true")));
  EXPECT_THAT(Headlines(R"({"fp16": {"enabled": true}, "bf16": {"enabled": true}})"),
              ElementsAre(HasSubstr("bf16.enabled: fp16 is enabled, too; leave one of them out")));
  EXPECT_THAT(Headlines(R"({"scheduler": {"type": "WarmupLr"}})"),
              ElementsAre(HasSubstr("got \"WarmupLr\"; did you mean WarmupLR?")));
}

// The schedule and the flags decide what of a file has a say; what has none is told where it
// stands.
TEST_F(DeepSpeedConfigTest, WhatTheRestDecides_IsNoFinding) {
  const auto optimizer = [](const std::string& params, const std::string& scheduler) {
    return R"({"optimizer": {"type": "AdamW", "params": {)" + params + R"(}}, "scheduler": )" +
           scheduler + "}";
  };
  // The block that most guides have.
  const std::string warm = R"({"type": "WarmupLR", "params": {"warmup_min_lr": 0,
      "warmup_max_lr": 3e-5, "warmup_num_steps": 500}})";
  EXPECT_EQ(Good(optimizer(R"("lr": 1e-5)", warm)).lr_schedule().params().at("warmup_max_lr"),
            3e-5);
  EXPECT_THAT(notes_, Contains(HasSubstr("optimizer.params.lr has no effect: the scheduler has "
                                         "rates of its own")));
  EXPECT_EQ(Good(optimizer("", warm), {"--lr=2e-5"}).lr_schedule().params().at("warmup_max_lr"),
            2e-5);
  const std::string decay = R"({"type": "WarmupDecayLR", "params": {"total_num_steps": 100}})";
  EXPECT_EQ(Good(optimizer(R"("lr": 5e-3)", decay)).lr_schedule().params().at("warmup_max_lr"),
            1e-3);
  const std::string cycle =
      R"({"type": "OneCycle", "params": {"cycle_min_lr": 1e-4, "cycle_max_lr": 1e-3}})";
  Good(optimizer(R"("betas": [0.8, 0.9])", cycle));
  EXPECT_THAT(notes_, Contains(HasSubstr("betas has no effect: OneCycle moves beta1")));
  Good(optimizer("", R"({"type": "LRRangeTest", "params": {"lr_range_test_min_lr": 1e-4}})"));

  const std::string half = R"({"fp16": {"enabled": true, "initial_scale_power": 12}})";
  Good(half, {"--precision=bf16"});
  EXPECT_THAT(notes_, Contains(HasSubstr("has no effect: the precision is not fp16")));
  EXPECT_EQ(Good(half, {"--loss-scale=128"}).loss_scale().fixed(), 128);
  EXPECT_EQ(
      Good(R"({"fp16": {"enabled": "auto", "initial_scale_power": 12}})", {"--precision=fp16"})
          .loss_scale()
          .initial_power(),
      12);
  Good(R"({"zero_optimization": {"stage": 3, "sub_group_size": 1000}})", {"--zero-stage=1"});
  EXPECT_THAT(notes_, Contains(HasSubstr("sub_group_size has no effect: the stage is not 3")));
  EXPECT_EQ(Good(R"({"zero_optimization": {"stage": "auto", "prefetch_bucket_size": 9000}})",
                 {"--zero-stage=3"})
                .zero()
                .prefetch(),
            9000);
  const std::string adam = R"({"optimizer": {"type": "Adam", "params": {"betas": [0.8, 0.9]}}})";
  EXPECT_EQ(Good(adam, {"--adam-beta2=0.7"}).adam_beta2(), 0.7);
  EXPECT_EQ(Good(adam, {"--adam-beta2=0.7"}).adam_beta1(), 0.8);
  EXPECT_EQ(Good(adam, {"--min-lr=1e-5"}).lr_schedule().name(), "linear");
}

TEST_F(DeepSpeedConfigTest, ValuesThatArePassedOver_AreNot) {
  const proto::TrainSpec none = Good(
      R"({"optimizer": {"type": "AdamW", "params": {"lr": null, "betas": null,
          "weight_decay": null}}, "steps_per_print": 1e1})");
  EXPECT_EQ(none.lr(), 1e-3);
  EXPECT_EQ(none.adam_beta2(), 0.999);
  EXPECT_EQ(none.log_interval(), 10);
  const auto refused = [&](const std::string& json) { return Headlines(json); };
  EXPECT_THAT(
      refused(R"({"scheduler": {"type": "WarmupLR", "params": {"last_batch_iteration": 5}}})"),
      ElementsAre(HasSubstr("last_batch_iteration: expected -1")));
  EXPECT_THAT(refused(R"({"optimizer": {"type": "AdamW", "params": {"beta1": 0.5, "eps": true}}})"),
              ElementsAre(HasSubstr("no parameter \"beta1\""),
                          HasSubstr("eps: expected a number, got true")));
  EXPECT_THAT(
      refused(R"({"optimizer": {"type": "AdamW", "params": {"eps": -1, "betas": [0.9, 0.95]}}})"),
      ElementsAre(HasSubstr("DIR/ds.json:1:51: optimizer.params.eps (--optimizer-param): "
                            "eps: expected")));
  EXPECT_THAT(refused(R"({"elasticity": {"enabled": true}})"),
              Contains(HasSubstr("elasticity: expected max_train_batch_size")));
  EXPECT_THAT(
      refused(R"({"moe": {"ep_size": 2}, "tensor_parallel": {"tp_size": 2}})"),
      ElementsAre(HasSubstr("models have no experts"), HasSubstr("ranks are data parallel")));
  Good(R"({"tensor_parallel": {"tp_size": 1}, "fp16": {"enabled": true, "min_loss_scale": 1e-8},
           "optimizer": {"type": "AdamW", "params": {"torch_adam": true, "adam_w_mode": false}}})");
  std::string many = "{";
  for (int i = 0; i < 5000; ++i) many += "\"unknown" + std::to_string(i) + "\": 1, ";
  EXPECT_LE(refused(many + "}").size(), 101u);
}

// The resolver knows flags; who wrote a file is shown the file.
TEST_F(DeepSpeedConfigTest, FindingsOfTheResolver_PointIntoTheFile) {
  With("{\n  \"zero_optimization\": {\"stage\": 7}\n}");
  EXPECT_THAT(WithoutDir(findings_.Render()),
              AllOf(HasSubstr("DIR/ds.json:2:34: zero_optimization.stage (--zero-stage): expected"),
                    HasSubstr("    \"zero_optimization\": {\"stage\": 7}\n")));
  EXPECT_THAT(Headlines("{\"zero_optimization\": {\"stage\": 2}}", {"--zero-stage=7"}),
              ElementsAre(HasSubstr("--zero-stage: expected")));
}

TEST_F(DeepSpeedConfigTest, Elasticity_SaysTheBatch) {
  const std::string block =
      R"("elasticity": {"enabled": true, "max_train_batch_size": 64, "micro_batch_sizes": [4],
                        "min_gpus": 1, "max_gpus": 64, "version": 0.1})";
  const proto::TrainSpec spec = Good("{" + block + "}", {"--num_gpus=3"});
  EXPECT_EQ(spec.global_batch_size(), 48);
  EXPECT_EQ(spec.micro_batch_size(), 4);
  EXPECT_THAT(
      Headlines("{" + block + "}", {"--num_gpus=5"}),
      ElementsAre(HasSubstr("World size (5) is not valid with the current list of valid GPU "
                            "counts: [1, 2, 3, 4, 6, 12]")));
  EXPECT_THAT(Headlines("{\"train_batch_size\": 8, " + block + "}"),
              ElementsAre(HasSubstr("train_batch_size: elasticity says the batch")));
}

TEST_F(DeepSpeedConfigTest, TheFile_MayBeNamedInItsOtherWays) {
  Write("ds.json", R"({"train_batch_size": 6})");
  const std::string path = dir_ + "/ds.json";
  const auto batch = [&](const Args& more) {
    Args args = {"--dry-run", "train", "--data=text"};
    args.insert(args.end(), more.begin(), more.end());
    const Resolved resolved = Taken(args);
    EXPECT_EQ(findings_.Render(), "");
    return resolved.job.train().global_batch_size();
  };
  EXPECT_EQ(batch({"--deepspeed", path}), 6);
  EXPECT_EQ(batch({"--deepspeed", "--deepspeed-config", path}), 6);
  EXPECT_EQ(batch({"--deepspeed_config", absl::WebSafeBase64Escape(R"({"train_batch_size": 10})")}),
            10);
  EXPECT_EQ(batch({"--deepspeed"}), batch({}));
  Taken({"train", "--deepspeed_config=" + dir_ + "/nowhere.json"});
  EXPECT_THAT(findings_.Render(), HasSubstr("--deepspeed_config: "));
  Taken({"train", "--deepspeed=" + path, "--deepspeed_config=" + dir_ + "/text"});
  EXPECT_THAT(findings_.Render(), HasSubstr("leave one of them out"));
}

// ---- the table

// A value of the kind that asks for something.
std::string Asking(const DeepSpeedKey& key) {
  switch (key.kind) {
    case DeepSpeedKey::Kind::kBool:
      return key.off == "true" ? "false" : "true";
    case DeepSpeedKey::Kind::kInt:
    case DeepSpeedKey::Kind::kReal:
      return key.off == "2" ? "3" : "2";
    case DeepSpeedKey::Kind::kText:
      return "\"something\"";
    case DeepSpeedKey::Kind::kList:
      return "[1]";
    case DeepSpeedKey::Kind::kObject:
    case DeepSpeedKey::Kind::kAny:
      for (const DeepSpeedKey& inside : DeepSpeedKeys()) {
        if (!inside.path.starts_with(std::string(key.path) + ".")) continue;
        return "{\"" + std::string(inside.path.substr(key.path.size() + 1)) + "\": null}";
      }
      return "{\"enabled\": true}";
  }
  return "";
}

std::string Document(std::string_view path, const std::string& value) {
  std::string text, close;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    text += "{\"" + std::string(path.substr(begin, end - begin)) + "\": ";
    close += "}";
    begin = end + 1;
  }
  return text + value + close;
}

// No key is taken in silence: it becomes a flag, a line, or a finding.
TEST(DeepSpeedKeysTest, EveryKey_IsAnsweredWhereItAsksForSomething) {
  for (const DeepSpeedKey& key : DeepSpeedKeys()) {
    SCOPED_TRACE(std::string(key.path));
    const auto read = [&](const std::string& value, Findings& findings) {
      const SourceText text("ds.json", Document(key.path, value));
      return ReadDeepSpeedConfig(text, {}, findings);
    };
    Findings asked;
    const std::optional<DeepSpeedConfig> config = read(Asking(key), asked);
    switch (key.fate) {
      case DeepSpeedKey::Fate::kFlag:
        ASSERT_TRUE(config.has_value()) << asked.Render();
        EXPECT_EQ(config->flags.front().key, key.path);
        EXPECT_NE(FindOption(key.words, /*train=*/true), nullptr);
        break;
      case DeepSpeedKey::Fate::kNoted:
        ASSERT_TRUE(config.has_value()) << asked.Render();
        EXPECT_THAT(config->notes, Contains(HasSubstr(std::string(key.words))));
        break;
      case DeepSpeedKey::Fate::kRefused:
        EXPECT_THAT(asked.Render(), HasSubstr(std::string(key.words)));
        break;
      default:
        EXPECT_EQ(key.words, "");
    }
    if (key.fate == DeepSpeedKey::Fate::kRead || key.fate == DeepSpeedKey::Fate::kQuiet) continue;
    std::vector<std::string> values = absl::StrSplit(std::string(key.off), '|');
    values.insert(values.end(), {"null", "\"auto\""});
    for (const std::string& value : values) {
      Findings findings;
      const std::optional<DeepSpeedConfig> off = read(value, findings);
      ASSERT_TRUE(off.has_value());
      EXPECT_EQ(findings.Render(), "");
      EXPECT_THAT(off->notes, IsEmpty());
    }
  }
}

TEST(DeepSpeedKeysTest, EveryFlagThatIsImplied_IsInTheTableOfOptions) {
  for (const char* const json :
       {kGuide, R"({"fp16": {"enabled": true, "initial_scale_power": 8, "loss_scale_window": 10,
          "hysteresis": 1, "consecutive_hysteresis": true, "min_loss_scale": 0.5}})",
        R"({"fp16": {"enabled": true, "loss_scale": 128}})",
        R"({"optimizer": {"type": "Muon", "params": {"muon_lr": 0.02, "ns_method": "gram"}},
            "gradient_accumulation_steps": 2})"}) {
    const SourceText text("ds.json", json);
    Findings findings;
    const auto config = ReadDeepSpeedConfig(text, {}, findings);
    ASSERT_TRUE(config.has_value()) << findings.Render();
    for (const ImpliedFlag& implied : config->flags) {
      EXPECT_NE(FindOption(implied.flag, /*train=*/true), nullptr) << implied.flag;
    }
  }
}

// Mutations of guides: a job, or findings with places.
TEST_F(DeepSpeedConfigTest, AnyMutation_IsAJobOrHasPlaces) {
  const uint64_t seed = std::random_device()();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  int good = 0;
  for (int i = 0; i < 3000 && !HasFailure(); ++i) {
    std::string json = kGuide;
    for (uint64_t times = 1 + random() % 3; times > 0; --times) {
      const size_t at = random() % json.size();
      if (random() % 2 == 0) {
        json[at] = "0123456789\"{}[]:,truefalsn -.e"[random() % 30];
      } else {
        json.erase(at, 1 + random() % 4);
      }
    }
    const SourceText text("ds.json", json);
    Findings findings;
    const auto config = ReadDeepSpeedConfig(text, {}, findings);
    EXPECT_TRUE(config.has_value() || findings.has_errors()) << json;
    good += findings.has_errors() ? 0 : 1;
    for (const Diagnostic& one : findings.errors()) EXPECT_GT(one.line, 0) << json;
  }
  EXPECT_GT(good, 20);
}

}  // namespace
}  // namespace dsrun::launcher
