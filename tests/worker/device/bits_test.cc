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
  k.CrossEntropy({rows, 8, width, width}, /*gradient_scale=*/1, targets.data(),
                 (o["dlogits"] = x).data(), losses.data());
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
  Floats scratch(Z(k.AttentionScratch(shape, DType::kF32)));
  Floats& out = o[name + "out"] = Floats(d.size());
  Floats& lse = o[name + "lse"] = Floats(Z(2 * 3 * length));
  Floats& dqkv = o[name + "dqkv"] = Floats(qkv.size());
  k.AttentionForward(shape, {}, qkv.data(), scratch.data(), out.data(), lse.data());
  k.AttentionBackward(shape, {}, qkv.data(), out.data(), lse.data(), d.data(), scratch.data(),
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
  Floats scratch(Z(k.AttentionScratch({2, 150, 6 * 22, 6}, DType::kF32)));
  float* const context = out("context", queries);
  float* const lse = out("lse", 2 * 6 * 150);
  k.GroupedAttentionForward(shape, {}, q.data(), key.data(), value.data(), scratch.data(), context,
                            lse);
  k.GroupedAttentionBackward(shape, {}, q.data(), key.data(), value.data(), context, lse, d.data(),
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

DropoutMask SomeMask() {
  return MaskAt(0.3, {.seed = 7, .step = 11, .first_sample = 5}, SiteOf(3, kHiddenUse));
}

void RunDropout(Kernels& k, Outputs& o) {
  const auto out = [&](const std::string& what, int64_t n) {
    return (o["dropout " + what] = Floats(Z(n))).data();
  };
  const Floats x = Random(36 * 203, 21);
  k.Dropout({3, 12, 203}, SomeMask(), x.data(), out("alone", 36 * 203));
  const LinearShape shape{300, 130, 401};
  const Floats in = Random(300 * 130, 22);
  const Floats w = Random(130 * 401, 23);
  const Floats b = Random(401, 24);
  const Floats d = Random(300 * 401, 25);
  k.LinearDropoutResidualForward(shape, 100, SomeMask(), in.data(), w.data(), b.data(), d.data(),
                                 out("residual", 300 * 401));
  k.LinearDropoutResidualForward(shape, 150, SomeMask(), in.data(), w.data(), nullptr, d.data(),
                                 out("without bias", 300 * 401));
  const GroupedAttentionShape grouped{2, 300, 4, 2, 22, 40};
  const int64_t queries = grouped.rows() * 4 * 22;
  const int64_t keys = grouped.rows() * 2 * 22;
  const Floats q = Random(queries, 26, 2);
  const Floats key = Random(keys, 27, 2);
  Floats scratch(Z(k.AttentionScratch({2, 300, 4 * 22, 4}, DType::kF32)));
  float* const context = out("context", queries);
  float* const lse = out("lse", 2 * 4 * 300);
  k.GroupedAttentionForward(grouped, SomeMask(), q.data(), key.data(), key.data(), scratch.data(),
                            context, lse);
  k.GroupedAttentionBackward(grouped, SomeMask(), q.data(), key.data(), key.data(), context, lse,
                             q.data(), scratch.data(), out("dq", queries), out("dk", keys),
                             out("dv", keys));
}

// --- In 16 bits. Outputs stand in floats, two to one.

class HalfRun {
 public:
  HalfRun(Kernels& kernels, DType dtype, Outputs& outputs)
      : k_(kernels), dtype_(dtype), o_(outputs) {}

  void Rows() {
    const int64_t rows = 37;
    const int64_t width = 203;
    const Reals x = In(rows * width, 5, 3);
    const Reals w = In(width, 6);
    const Reals d = In(rows * width, 7);
    float* const mean = Floats32("mean", rows);
    float* const rstd = Floats32("rstd", rows);
    k_.LayerNormForward(rows, width, x, w, w, Out("layernorm", rows * width), mean, rstd);
    k_.LayerNormBackward(rows, width, x, w, mean, rstd, d, x, Out("layernorm dx", rows * width),
                         Floats32("layernorm dw", width), Floats32("layernorm db", width));
    k_.RmsNormForward(rows, width, 1e-5f, x, w, Out("rmsnorm", rows * width), rstd);
    k_.RmsNormBackward(rows, width, x, w, rstd, d, nullptr, Out("rmsnorm dx", rows * width),
                       Floats32("rmsnorm dw", width));
    k_.RmsNormBackward(rows, width, x, w, rstd, d, x, Out("rmsnorm dx and residual", rows * width),
                       nullptr);
    const Reals rotated = Out("rotated", 3 * 12 * 203 * 2);
    k_.Cast(3 * 12 * 203 * 2, Random(3 * 12 * 203 * 2, 8).data(), rotated);
    const Floats cosines = Random(12 * 203, 9);
    k_.RotaryForward({3, 12, 1, 2 * 203}, cosines.data(), cosines.data(), rotated);
    const std::vector<int32_t> tokens(36, 4);
    const SequenceShape shape{3, 12, width, 1};
    k_.EmbeddingForward(shape, tokens.data(), x, d, Out("embedding", 36 * width));
    k_.EmbeddingForward(shape, tokens.data(), x, nullptr, Out("of tokens", 36 * width));
    k_.EmbeddingBackward(shape, 13, 12, tokens.data(), x, Floats32("dwte", 13 * width),
                         Floats32("dwpe", 12 * width));
    k_.Dropout({1, rows, width}, SomeMask(), x, Out("dropped", rows * width));
    const int64_t n = rows * width - 5;
    k_.SwiGluForward(n, x, d, Out("swiglu", n));
    k_.SwiGluBackward(n, x, d, d, Out("dgate", n), Out("dup", n));
  }

  void Products(int64_t rows, int64_t inputs, int64_t outputs, WeightOrder order) {
    const LinearShape shape{rows, inputs, outputs, order};
    name_ = std::to_string(rows) + "x" + std::to_string(inputs) + "x" + std::to_string(outputs) +
            (order == WeightOrder::kInputsOutputs ? " " : " stored ");
    const Reals x = In(rows * inputs, 8);
    const Reals w = In(inputs * outputs, 9);
    const Reals b = In(outputs, 10);
    const Reals d = In(rows * outputs, 11);
    k_.LinearForward(shape, x, w, b, Out("forward", rows * outputs));
    k_.LinearForward(shape, x, w, nullptr, Out("without bias", rows * outputs));
    k_.LinearResidualForward(shape, x, w, b, d, Out("residual", rows * outputs));
    k_.LinearDropoutResidualForward(shape, 20, SomeMask(), x, w, b, d,
                                    Out("dropped residual", rows * outputs));
    k_.LinearGeluForward(shape, x, w, b, Out("slope", rows * outputs), Out("gelu", rows * outputs));
    k_.LinearBackwardInput(shape, d, w, Out("dx", rows * inputs));
    k_.LinearBackwardInputGelu(shape, d, w, x, Out("dpre", rows * inputs));
    const Reals added = Out("added", rows * inputs);
    k_.LinearBackwardInput(shape, d, w, added);
    k_.AccumulateLinearBackwardInput(shape, d, w, added);
    k_.LinearBackwardWeight(shape, x, d, Floats32("dw", inputs * outputs));
    k_.LinearBackwardBias(shape, d, Floats32("db", outputs));
    const HeadShape head{rows, inputs, outputs, outputs};
    float* const logits = Floats32("logits", rows * outputs);
    k_.HeadForward(head, x, w, logits);
    k_.HeadBackwardInput(head, logits, w, Out("head dx", rows * inputs));
    float* const dw = Floats32("head dw", inputs * outputs);
    k_.HeadBackwardWeight(head, logits, x, dw);
    k_.AccumulateHeadBackwardWeight(head, logits, x, dw);
  }

  void Attention(const GroupedAttentionShape& shape) {
    name_ = "attention " + std::to_string(shape.seq_length) + " ";
    const int64_t queries = shape.rows() * shape.heads * shape.head_size;
    const int64_t keys = shape.rows() * shape.heads_of_keys * shape.head_size;
    const SequenceShape sequence{shape.batch, shape.seq_length, shape.heads * shape.head_size,
                                 shape.heads};
    Floats scratch(Z(k_.AttentionScratch(sequence, dtype_)));
    const Reals q = In(3 * queries, 14, 2);
    const Reals k = In(keys, 15, 2);
    const Reals v = In(keys, 16, 2);
    const Reals d = In(queries, 17);
    const Reals out = Out("out", queries);
    float* const lse = Floats32("lse", shape.rows() * shape.heads);
    k_.GroupedAttentionForward(shape, {}, q, k, v, scratch.data(), out, lse);
    k_.GroupedAttentionBackward(shape, {}, q, k, v, out, lse, d, scratch.data(), Out("dq", queries),
                                Out("dk", keys), Out("dv", keys));
    const Reals beside = Out("side by side", queries);
    k_.AttentionForward(sequence, {}, q, scratch.data(), beside, lse);
    k_.AttentionBackward(sequence, {}, q, beside, lse, d, scratch.data(), Out("dqkv", 3 * queries));
  }

 private:
  float* Floats32(const std::string& what, int64_t n) {
    return (o_[std::string(NameOf(dtype_)) + " " + name_ + what] = Floats(Z(n))).data();
  }
  Reals Out(const std::string& what, int64_t n) { return {Floats32(what, (n + 1) / 2), dtype_}; }
  // With some zeros, and numbers that are subnormal in either type.
  Reals In(int64_t n, uint32_t seed, double scale = 1) {
    Floats x = Random(n, seed, scale);
    for (size_t i = 0; i < x.size(); i += 101) x[i] = i % 2 == 0 ? 3e-6f : -1e-39f;
    const Reals in = Out("in " + std::to_string(seed), n);
    k_.Cast(n, x.data(), in);
    return in;
  }

  Kernels& k_;
  const DType dtype_;
  Outputs& o_;
  std::string name_;
};

void RunHalves(Kernels& k, Outputs& o) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    HalfRun run(k, dtype, o);
    run.Rows();
    run.Products(45, 33, 71, WeightOrder::kInputsOutputs);
    run.Products(512, 192, 576, WeightOrder::kInputsOutputs);
    run.Products(300, 530, 401, WeightOrder::kOutputsInputs);
    run.Attention({2, 150, 6, 2, 22, 40});
    run.Attention({1, 300, 3, 3, 32, 0});
  }
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
  RunDropout(kernels, outputs);
  RunAttention(kernels, outputs, 77);
  RunAttention(kernels, outputs, 300);
  RunHalves(kernels, outputs);
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
