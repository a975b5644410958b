// Same bits whatever the instruction set and the number of threads (docs/numerics.md, rules a, k):
// every kernel runs on one set of inputs under every instruction set that this CPU has and under 1,
// 2 and 3 threads; all outputs are compared byte for byte. The matrix library stays the same; the
// loops around it change.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/worker/device/reference.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/cpu/cpu_matmul.h"

namespace dsrun::worker {
namespace {

using testing::Floats;
using testing::Random;
using testing::Z;

using Outputs = std::map<std::string, Floats>;

std::vector<CpuIsa> IsasHere() {
  std::vector<CpuIsa> isas;
  for (const CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa <= BestIsa()) isas.push_back(isa);
  }
  return isas;
}

void RunElementwise(Kernels& k, Outputs& o) {
  const int64_t n = 50021;
  const Floats a = Random(n, 1, 5);
  const Floats b = Random(n, 2, 5);
  const Floats one(1, 1.0f);
  k.LinearGeluForward({1, 1, n}, one.data(), a.data(), b.data(),
                      (o["gelu slope"] = Floats(Z(n))).data(), (o["gelu"] = Floats(Z(n))).data());
  k.Accumulate(n, b.data(), (o["accumulate"] = a).data());
  AdamWArguments arguments;
  arguments.lr = 0.01f;
  arguments.weight_decay = 0.1f;
  arguments.bias_correction1 = 0.1f;
  arguments.bias_correction2 = 0.05f;
  arguments.grad_scale = 0.37f;
  o["param"] = a;
  o["m"] = Random(n, 3);
  o["v"] = Random(n, 4);
  for (float& v : o["v"]) v *= v;
  k.AdamW(n, arguments, b.data(), o["param"].data(), o["m"].data(), o["v"].data());
  const auto start = [&](const char* name) { return (o[name] = a).data(); };
  const auto slot = [&](const char* name, uint32_t seed) {
    o[name] = Random(n, seed);
    for (float& v : o[name]) v *= v;
    return o[name].data();
  };
  k.Adam(n, arguments, b.data(), start("adam"), slot("adam m", 3), slot("adam v", 4));
  o["lamb"] = b;
  k.LambDirection(n, arguments, a.data(), o["lamb"].data(), slot("lamb m", 3), slot("lamb v", 4));
  k.Descend(n, 0.013f, o["lamb"].data(), start("descend"));
  LionArguments lion{.lr = 0.01f, .weight_decay = 0.1f, .grad_scale = 0.37f};
  k.Lion(n, lion, b.data(), start("lion"), slot("lion m", 3));
  AdagradArguments adagrad{.lr = 0.01f, .weight_decay = 0.1f, .grad_scale = 0.37f};
  k.Adagrad(n, adagrad, b.data(), start("adagrad"), slot("adagrad sum", 3));
  SgdArguments sgd{.lr = 0.01f, .momentum = 0.9f, .weight_decay = 0.1f, .grad_scale = 0.37f};
  k.Sgd(n, sgd, b.data(), start("sgd"));
  k.SgdMomentum(n, sgd, b.data(), start("momentum"), slot("buffer", 3));
  sgd.nesterov = true;
  k.SgdMomentum(n, sgd, b.data(), start("nesterov"), slot("nesterov buffer", 3));
  o["muon"] = b;
  k.MuonMomentum(n, {.momentum = 0.95f, .grad_scale = 0.37f}, o["muon"].data(), slot("muon m", 3));
  k.DescendAndDecay(n, 0.013f, 0.002f, b.data(), start("muon step"));
  k.Scale(n, 0.3f, start("scaled"));
  std::vector<double> squares(48);
  k.LeafSquares(48, a.data(), squares.data());
  o["squares"].resize(96);
  std::memcpy(o["squares"].data(), squares.data(), 48 * sizeof(double));
}

void RunRows(Kernels& k, Outputs& o) {
  const int64_t rows = 37;
  const int64_t width = 203;
  const Floats x = Random(rows * width, 5, 3);
  const Floats w = Random(width, 6);
  const Floats d = Random(rows * width, 7);
  Floats& mean = o["mean"] = Floats(Z(rows));
  Floats& rstd = o["rstd"] = Floats(Z(rows));
  k.LayerNormForward(rows, width, x.data(), w.data(), w.data(),
                     (o["layernorm"] = Floats(x.size())).data(), mean.data(), rstd.data());
  k.LayerNormBackward(rows, width, x.data(), w.data(), mean.data(), rstd.data(), d.data(), x.data(),
                      (o["layernorm_dx"] = Floats(x.size())).data(),
                      (o["layernorm_dw"] = Floats(Z(width))).data(),
                      (o["layernorm_db"] = Floats(Z(width))).data());
  const std::vector<int32_t> targets(Z(rows), 100);
  std::vector<double> losses(Z(rows));
  k.CrossEntropy({rows, 8, width, width}, targets.data(), (o["dlogits"] = x).data(), losses.data());
  o["losses"].resize(Z(2 * rows));
  std::memcpy(o["losses"].data(), losses.data(), losses.size() * sizeof(double));
  std::vector<int32_t> tokens(36);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7 % 13);
  const SequenceShape shape{3, 12, width, 1};
  k.EmbeddingForward(shape, tokens.data(), x.data(), d.data(),
                     (o["embedding"] = Floats(Z(36 * width))).data());
  k.EmbeddingBackward(shape, 13, 12, tokens.data(), x.data(),
                      (o["dwte"] = Floats(Z(13 * width))).data(),
                      (o["dwpe"] = Floats(Z(12 * width))).data());
}

// Shapes with one tile, with several, with cut edges.
void RunProducts(Kernels& k, Outputs& o, int64_t rows, int64_t inputs, int64_t outputs) {
  const LinearShape shape{rows, inputs, outputs};
  const std::string name =
      std::to_string(rows) + "x" + std::to_string(inputs) + "x" + std::to_string(outputs) + " ";
  const Floats x = Random(rows * inputs, 8);
  const Floats w = Random(inputs * outputs, 9);
  const Floats b = Random(outputs, 10);
  const Floats d = Random(rows * outputs, 11);
  const auto out = [&](const std::string& what, int64_t n) {
    return (o[name + what] = Floats(Z(n))).data();
  };
  k.LinearForward(shape, x.data(), w.data(), b.data(), out("forward", rows * outputs));
  k.LinearResidualForward(shape, x.data(), w.data(), b.data(), d.data(),
                          out("residual", rows * outputs));
  k.LinearGeluForward(shape, x.data(), w.data(), b.data(), out("slope", rows * outputs),
                      out("gelu", rows * outputs));
  k.LinearBackwardInput(shape, d.data(), w.data(), out("dx", rows * inputs));
  k.LinearBackwardInputGelu(shape, d.data(), w.data(), x.data(), out("dpre", rows * inputs));
  k.LinearBackwardWeight(shape, x.data(), d.data(), out("dw", inputs * outputs));
  k.LinearBackwardBias(shape, d.data(), out("db", outputs));
  k.MatrixProduct({inputs, outputs, rows, true, false}, x.data(), d.data(),
                  out("product", inputs * outputs));
  k.MatrixProduct({rows, inputs, outputs, false, true}, d.data(), w.data(),
                  out("product transposed", rows * inputs));
  const int64_t side = std::min(rows, inputs);
  k.MatrixPolynomial(side, {3.4445f, -4.775f, 2.0315f}, x.data(), out("polynomial", side * side));
  const HeadShape head{rows, inputs, outputs, outputs};
  k.HeadForward(head, x.data(), w.data(), out("logits", rows * outputs));
  k.HeadBackwardInput(head, d.data(), w.data(), out("head dx", rows * inputs));
  k.HeadBackwardWeight(head, d.data(), x.data(), out("head dw", inputs * outputs));
}

void RunAttention(Kernels& k, Outputs& o, int64_t length) {
  const SequenceShape shape{2, length, 96, 3};
  const std::string name = "attention " + std::to_string(length) + " ";
  const Floats qkv = Random(shape.rows() * 288, 12, 2);
  const Floats d = Random(shape.rows() * 96, 13);
  Floats scratch(Z(k.AttentionScratch(shape)));
  Floats& out = o[name + "out"] = Floats(d.size());
  Floats& lse = o[name + "lse"] = Floats(Z(2 * 3 * length));
  Floats& dqkv = o[name + "dqkv"] = Floats(qkv.size());
  k.AttentionForward(shape, qkv.data(), scratch.data(), out.data(), lse.data());
  k.AttentionBackward(shape, qkv.data(), out.data(), lse.data(), d.data(), scratch.data(),
                      dqkv.data());
}

void RunRotated(Kernels& k, Outputs& o) {
  const GroupedAttentionShape shape{2, 150, 6, 2, 22, 40};
  const auto out = [&](const std::string& what, int64_t n) {
    return (o["rotated " + what] = Floats(Z(n))).data();
  };
  const int64_t queries = shape.rows() * 6 * 22;
  const int64_t keys = shape.rows() * 2 * 22;
  const Floats q = Random(queries, 14, 2);
  const Floats key = Random(keys, 15, 2);
  const Floats value = Random(keys, 16, 2);
  const Floats d = Random(queries, 17);
  Floats scratch(Z(k.AttentionScratch({2, 150, 6 * 22, 6})));
  float* const context = out("context", queries);
  float* const lse = out("lse", 2 * 6 * 150);
  k.GroupedAttentionForward(shape, q.data(), key.data(), value.data(), scratch.data(), context,
                            lse);
  k.GroupedAttentionBackward(shape, q.data(), key.data(), value.data(), context, lse, d.data(),
                             scratch.data(), out("dq", queries), out("dk", keys), out("dv", keys));
  o["rotated"] = q;
  k.RotaryForward({2, 150, 6, 22}, key.data(), value.data(), o["rotated"].data());
  o["rotated back"] = q;
  k.RotaryBackward({2, 150, 6, 22}, key.data(), value.data(), o["rotated back"].data());
  float* const rstd = out("rstd", queries / 22);
  k.RmsNormForward(queries / 22, 22, 1e-5f, q.data(), key.data(), out("rmsnorm", queries), rstd);
  k.RmsNormBackward(queries / 22, 22, q.data(), key.data(), rstd, d.data(), q.data(),
                    out("rmsnorm dx", queries), out("rmsnorm dweight", 22));
  k.SwiGluForward(queries - 5, q.data(), d.data(), out("swiglu", queries));
  k.SwiGluBackward(queries - 5, q.data(), d.data(), d.data(), out("dgate", queries),
                   out("dup", queries));
  const LinearShape linear{300, 130, 401, WeightOrder::kOutputsInputs};
  const Floats w = Random(130 * 401, 20);
  k.LinearForward(linear, q.data(), w.data(), nullptr, out("linear", 300 * 401));
  const Floats dout = Random(300 * 401, 18);
  k.LinearBackwardWeight(linear, q.data(), dout.data(), out("linear dw", 130 * 401));
  o["linear dx"] = Random(300 * 130, 19);
  k.AccumulateLinearBackwardInput(linear, dout.data(), w.data(), o["linear dx"].data());
}

Outputs RunAll(CpuIsa isa, int threads) {
  ThreadPool pool(threads);
  CpuKernels kernels(pool, isa);
  Outputs outputs;
  RunElementwise(kernels, outputs);
  RunRows(kernels, outputs);
  RunProducts(kernels, outputs, 45, 33, 71);
  RunProducts(kernels, outputs, 512, 192, 576);
  RunProducts(kernels, outputs, 300, 130, 401);
  RunRotated(kernels, outputs);
  RunAttention(kernels, outputs, 77);
  RunAttention(kernels, outputs, 300);
  return outputs;
}

void ExpectSameBits(const Outputs& actual, const Outputs& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, values] : expected) {
    const Floats& got = actual.at(name);
    ASSERT_EQ(got.size(), values.size()) << name;
    EXPECT_EQ(std::memcmp(got.data(), values.data(), values.size() * sizeof(float)), 0) << name;
  }
}

TEST(BitsTest, EveryKernel_IsTheSameUnderEveryInstructionSetAndThreadCount) {
  const Outputs expected = RunAll(CpuIsa::kBaseline, 1);
  for (const CpuIsa isa : IsasHere()) {
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(IsaName(isa) + ", " + std::to_string(threads) + " threads");
      ExpectSameBits(RunAll(isa, threads), expected);
    }
  }
}

// Run three times by BUILD: with the library as it is, and held to AVX2 and to SSE4.1, where its
// own threading changes bits.
TEST(BitsTest, LibraryCapOfThisRun_IsInForce) {
  const char* const cap = std::getenv("DNNL_MAX_CPU_ISA");
  ASSERT_EQ(MatrixLibraryInUse().name, "oneDNN");
  if (cap == nullptr || BestIsa() == CpuIsa::kBaseline) return;  // nothing is capped
  EXPECT_EQ(MatrixLibraryInUse().isa, std::string(cap) == "AVX2" ? "avx2" : "baseline");
}

// The comparison above would see a difference of one bit.
TEST(BitsTest, OneChangedBit_IsSeen) {
  Outputs a = {{"x", {1.0f, 2.0f}}};
  Outputs b = a;
  b["x"][1] = std::nextafter(2.0f, 3.0f);
  EXPECT_NE(std::memcmp(a["x"].data(), b["x"].data(), 2 * sizeof(float)), 0);
}

}  // namespace
}  // namespace dsrun::worker
