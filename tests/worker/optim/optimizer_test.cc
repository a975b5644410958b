#include "worker/optim/optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/model/model_plan.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/random_normal.h"
#include "worker/optim/clip_factor.h"

namespace dsrun::worker {
namespace {

using Floats = std::vector<float>;
using Params = std::map<std::string, double>;

const ModelSpec kSpec{"tiny", 2, 48, 4, 12, 17};
constexpr double kDecay = 0.1;
constexpr double kRate = 0.01;

// One of every kind, and what changes a formula; of Muon the rest has its own test
// (tests/worker/parallel/matrix_updates_test.cc).
std::vector<OptimizerSettings> All() {
  std::vector<OptimizerSettings> all;
  for (const OptimizerForm& form : OptimizerForms()) {
    if (form.rule == OptimizerForm::Rule::kMuon) continue;
    all.push_back(CreateOptimizer(std::string(form.name), {}, kDecay).value());
  }
  all.push_back(CreateOptimizer("sgd", {{"momentum", 0.9}}, kDecay).value());
  all.push_back(CreateOptimizer("sgd", {{"momentum", 0.9}, {"nesterov", 1}}, kDecay).value());
  return all;
}

// Parameters and slots of a whole layout.
struct State {
  Floats param;
  std::vector<Floats> slots;
  friend bool operator==(const State&, const State&) = default;
};

class OptimizerTest : public ::testing::Test {
 protected:
  Floats Numbers(const std::string& name, float scale) const {
    Floats x(static_cast<size_t>(layout_.size()));
    for (const FlatLayout::Entry& entry : layout_.entries()) {
      NormalRange(1, StreamId(name.c_str(), entry.tensor.name), 0, entry.tensor.size(), scale,
                  x.data() + entry.offset);
    }
    return x;
  }
  State Start(const OptimizerSettings& settings) const {
    return {Numbers("param", 1), std::vector<Floats>(settings.plan().slots.size(),
                                                     Floats(static_cast<size_t>(layout_.size())))};
  }
  static Floats Squared(Floats x) {
    for (float& value : x) value *= value;
    return x;
  }
  // Update `step` in ranges of `elements`, with LAMB's second half after all of the first.
  void Update(const OptimizerSettings& settings, int64_t step, const ScheduledRates& rates,
              double scale, Floats grad, int64_t elements, State& state) {
    Optimizer optimizer(kernels_, layout_, settings);
    const auto ranges = [&](const auto& each) {
      for (int64_t begin = 0; begin < layout_.size(); begin += elements) {
        each(Range{begin, std::min(begin + elements, layout_.size())});
      }
    };
    ranges([&](Range range) {
      std::vector<float*> slots;
      for (Floats& slot : state.slots) slots.push_back(slot.data() + range.begin);
      optimizer.Step(step, rates, scale, range, grad.data() + range.begin,
                     state.param.data() + range.begin, slots);
    });
    if (!optimizer.needs_norms()) return;
    std::vector<double> trust;
    for (const FlatLayout::Entry& entry : layout_.entries()) {
      trust.push_back(optimizer.TrustRatio(Norm(entry, state.param), Norm(entry, grad)));
    }
    ranges([&](Range range) {
      optimizer.Descend(rates, trust, range, grad.data() + range.begin,
                        state.param.data() + range.begin);
    });
  }
  static double Norm(const FlatLayout::Entry& entry, const Floats& x) {
    double sum = 0;
    for (int64_t i = entry.flat().begin; i < entry.flat().end; ++i) {
      sum += std::pow(double{x[static_cast<size_t>(i)]}, 2);
    }
    return std::sqrt(sum);
  }

  FlatLayout layout_{LogicalTensors(kSpec)};
  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, BestIsa()};
};

// Two steps of one element, in double precision, by PyTorch's definitions (Adam, AdamW, Adagrad,
// SGD) and those of the papers (Lion, LAMB); the factor of LAMB's direction comes from outside.
struct Element {
  double p = 0;
  double first = 0;
  double second = 0;
  // What p moves against, times the rate.
  double Direction(const OptimizerSettings& s, int64_t step, double g, double decay) {
    const auto moments = [&](double gradient) {
      const double b1 = s.Param("beta1"), b2 = s.Param("beta2");
      first = b1 * first + (1 - b1) * gradient;
      second = b2 * second + (1 - b2) * gradient * gradient;
      return first / (1 - std::pow(b1, static_cast<double>(step))) /
             (std::sqrt(second / (1 - std::pow(b2, static_cast<double>(step)))) + s.Param("eps"));
    };
    switch (s.form->rule) {
      case OptimizerForm::Rule::kAdamW:
      case OptimizerForm::Rule::kLamb:
        return moments(g) + decay * p;
      case OptimizerForm::Rule::kAdam:
        return moments(g + decay * p);
      case OptimizerForm::Rule::kLion: {
        const double mixed = s.Param("beta1") * first + (1 - s.Param("beta1")) * g;
        first = s.Param("beta2") * first + (1 - s.Param("beta2")) * g;
        return (mixed > 0 ? 1 : mixed < 0 ? -1 : 0) + decay * p;
      }
      case OptimizerForm::Rule::kAdagrad:
        g += decay * p;
        first += g * g;
        return g / (std::sqrt(first) + s.Param("eps"));
      case OptimizerForm::Rule::kSgd:
        g += decay * p;
        if (s.Param("momentum") == 0) return g;
        first = step == 1 ? g : s.Param("momentum") * first + g;
        return s.Param("nesterov") != 0 ? g + s.Param("momentum") * first : first;
      case OptimizerForm::Rule::kMuon:  // no element has one of its own
        break;
    }
    return 0;
  }
};

TEST_F(OptimizerTest, Step_DecaysMatricesAlone_AndMatchesTheFormula) {
  for (const OptimizerSettings& settings : All()) {
    SCOPED_TRACE(std::string(settings.form->name));
    State state = Start(settings);
    std::vector<Element> elements;
    for (const float p : state.param) elements.push_back({p});
    for (int64_t step = 1; step <= 3; ++step) {
      const Floats grad = Numbers("grad" + std::to_string(step), 1);
      Update(settings, step, {.lr = kRate}, 0.5, grad, layout_.size(), state);
      for (const FlatLayout::Entry& entry : layout_.entries()) {
        std::vector<double> directions;
        double param_square = 0, direction_square = 0;
        for (int64_t i = entry.offset; i < entry.padded().end; ++i) {
          Element& element = elements[static_cast<size_t>(i)];
          param_square += element.p * element.p;
          directions.push_back(element.Direction(settings, step, 0.5 * grad[static_cast<size_t>(i)],
                                                 entry.tensor.weight_decay ? kDecay : 0));
          direction_square += directions.back() * directions.back();
        }
        double factor = 1;
        if (settings.form->rule == OptimizerForm::Rule::kLamb && param_square > 0) {
          factor = std::clamp(std::sqrt(param_square / direction_square), 0.01, 10.0);
        }
        for (int64_t i = entry.offset; i < entry.padded().end; ++i) {
          const auto at = static_cast<size_t>(i);
          elements[at].p -= kRate * factor * directions[static_cast<size_t>(i - entry.offset)];
          ASSERT_NEAR(state.param[at], elements[at].p, 2e-5)
              << entry.tensor.name << " step " << step;
        }
      }
    }
    const Floats start = Start(settings).param;
    EXPECT_NE(state.param, start);
  }
}

// Sharding decides nothing: ranges cut at any leaf give the bits of one call.
TEST_F(OptimizerTest, Step_InRanges_HasTheBitsOfTheWhole) {
  for (const OptimizerSettings& settings : All()) {
    SCOPED_TRACE(std::string(settings.form->name));
    State whole = Start(settings);
    State cut = whole;
    for (int64_t step = 1; step <= 2; ++step) {
      const Floats grad = Numbers("grad", 1);
      Update(settings, step, {.lr = kRate}, 1, grad, layout_.size(), whole);
      Update(settings, step, {.lr = kRate}, 1, grad, 3 * kLeafElements, cut);
    }
    EXPECT_EQ(whole, cut);
  }
}

// OneCycle's betas stand in place of the optimizer's own, in the moments and in their corrections.
TEST_F(OptimizerTest, Step_WithBetasOfTheSchedule_TakesThose) {
  for (const char* const name : {"adamw", "adam", "lamb", "lion"}) {
    const OptimizerSettings own = CreateOptimizer(name, {}, kDecay).value();
    const OptimizerSettings other =
        CreateOptimizer(name, {{"beta1", 0.85}, {"beta2", 0.98}}, kDecay).value();
    State state = Start(own);
    State expected = state;
    State without = state;
    for (int64_t step = 1; step <= 2; ++step) {
      const Floats grad = Numbers("grad" + std::to_string(step), 1);
      Update(own, step, {.lr = 0.01, .sets_betas = true, .beta1 = 0.85, .beta2 = 0.98}, 1, grad,
             layout_.size(), state);
      Update(other, step, {.lr = 0.01}, 1, grad, layout_.size(), expected);
      Update(own, step, {.lr = 0.01}, 1, grad, layout_.size(), without);
    }
    EXPECT_EQ(state, expected) << name;
    EXPECT_NE(state, without) << name;
  }
}

// A group's tensors alone change, as if all had its rate and decay.
TEST_F(OptimizerTest, Step_OfAGroup_HasItsRateAndDecay) {
  std::vector<std::string> names;
  for (const FlatLayout::Entry& entry : layout_.entries()) names.push_back(entry.tensor.name);
  for (OptimizerSettings settings : All()) {
    SCOPED_TRACE(std::string(settings.form->name));
    const Floats grad = Numbers("grad", 1);
    State plain = Start(settings);
    Update(settings, 1, {.lr = kRate}, 1, grad, layout_.size(), plain);
    OptimizerSettings all = settings;
    ASSERT_TRUE(AddGroup({.pattern = ".", .weight_decay = 0.25, .tensors = {}}, names, all).ok());
    State expected = Start(all);
    Update(all, 1, {.lr = kRate / 4}, 1, grad, layout_.size(), expected);
    ASSERT_TRUE(AddGroup({.pattern = "ln_1", .lr_scale = 0.25, .weight_decay = 0.25, .tensors = {}},
                         names, settings)
                    .ok());
    State state = Start(settings);
    Update(settings, 1, {.lr = kRate}, 1, grad, layout_.size(), state);
    for (const FlatLayout::Entry& entry : layout_.entries()) {
      const bool grouped = entry.tensor.name.find("ln_1") != std::string::npos;
      const Floats& should = (grouped ? expected : plain).param;
      EXPECT_TRUE(std::equal(state.param.begin() + entry.flat().begin,
                             state.param.begin() + entry.flat().end,
                             should.begin() + entry.flat().begin))
          << entry.tensor.name;
    }
    EXPECT_NE(state.param, plain.param);
  }
}

TEST_F(OptimizerTest, TrustRatio_IsOneWithoutNorms_AndBounded) {
  const Optimizer lamb(kernels_, layout_, CreateOptimizer("lamb", {}, 0).value());
  EXPECT_TRUE(lamb.needs_norms());
  EXPECT_EQ(lamb.TrustRatio(0, 2), 1);
  EXPECT_EQ(lamb.TrustRatio(2, 0), 1);
  EXPECT_EQ(lamb.TrustRatio(3, 2), 1.5);
  EXPECT_EQ(lamb.TrustRatio(300, 2), 10);
  EXPECT_EQ(lamb.TrustRatio(1, 200), 0.01);
}

TEST(ClipFactorTest, ScalesOnlyWhatIsTooLong) {
  EXPECT_EQ(ClipFactor(0.5, 1), 1);
  EXPECT_EQ(ClipFactor(1, 1), 1);
  EXPECT_EQ(ClipFactor(4, 1), 0.25);
  EXPECT_EQ(ClipFactor(4, 0), 1);
  EXPECT_EQ(ClipFactor(std::numeric_limits<double>::infinity(), 1), 1);
}

}  // namespace
}  // namespace dsrun::worker
